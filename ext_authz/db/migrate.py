"""Brings the database to the schema of this version: `migrations/NNNN_name.sql`, forward only, each exactly once."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

import psycopg
from msgspec import Struct
from psycopg.errors import InsufficientPrivilege, InvalidSchemaName

from ext_authz.db.causes import unavailable
from ext_authz.db.postgres import Connection, connect
from ext_authz.db.tables import quoted, unfit
from ext_authz.errors import ConfigError

log = logging.getLogger(__name__)

_LOCK = 7_263_517_091  # any number; the same in every version
_HISTORY = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    name text PRIMARY KEY,
    checksum text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)
"""
# A migration does not wait longer than this for a lock: every other statement would queue behind it.
_TIMEOUTS = "SET LOCAL lock_timeout = '30s'; SET LOCAL statement_timeout = 0"
_RIGHTS = """
SELECT current_user, current_schema(), has_schema_privilege(current_schema(), 'CREATE'),
    coalesce(has_table_privilege(to_regclass('schema_migrations'), 'SELECT'), true),
    (SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = to_regclass('schema_migrations'))
"""
MIGRATIONS = Path(__file__).parent / "migrations"


class Migration(Struct, frozen=True):
    name: str
    text: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


def read_migrations(directory: Path = MIGRATIONS) -> list[Migration]:
    """In the order in which they are applied."""
    files = sorted(directory.glob("[0-9][0-9][0-9][0-9]_*.sql"))
    return [Migration(file.stem, file.read_text(encoding="utf-8")) for file in files]


async def migrate(url: str, migrations: Sequence[Migration] | None = None) -> list[str]:
    """Apply what is missing and return its names. All or nothing; several processes may do it at once. Where nothing is
    missing, the only privilege needed is to read `schema_migrations`.

    Raises:
        ConfigError: a migration was changed after it had been applied, a privilege is missing, or the server is unfit.
        Unavailable: "postgres".
    """
    wanted = read_migrations() if migrations is None else migrations
    try:
        async with await connect(url) as connection:
            return await _migrate_where_needed(connection, wanted)
    except psycopg.Error as failure:
        raise unavailable(failure) from failure


async def _migrate_where_needed(connection: Connection, wanted: Sequence[Migration]) -> list[str]:
    try:
        if not pending(wanted, await _applied(connection)):
            return []
        if wrong := await unfit(connection):
            raise ConfigError(f"postgres cannot be used: {wrong}")
        async with connection.transaction():
            return await _migrate(connection, wanted)
    except (InsufficientPrivilege, InvalidSchemaName) as refused:
        raise ConfigError(await _what_is_missing(connection)) from refused


async def _migrate(connection: Connection, wanted: Sequence[Migration]) -> list[str]:
    await connection.execute(_TIMEOUTS)
    # Held until the commit: a second process finds everything done.
    await connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
    await connection.execute(_HISTORY)
    missing = pending(wanted, await _applied(connection))
    for migration in missing:
        await _apply(connection, migration)
    return [migration.name for migration in missing]


def pending(wanted: Sequence[Migration], applied: dict[str, str]) -> list[Migration]:
    """What is still to do. Names in the database that are not here belong to a newer version: fine during a rollout,
    and when one was taken back.

    Raises:
        ConfigError: a migration was changed after it had been applied, or comes before one that has been.
    """
    missing = [migration for migration in wanted if migration.name not in applied]
    for migration in wanted:
        if applied.get(migration.name, migration.checksum) != migration.checksum:
            raise ConfigError(
                f"migration {migration.name} was changed after it had been applied: restore it and add a new one"
            )
    if missing and missing[0].name < max(applied, default=""):
        raise ConfigError(
            f"migration {missing[0].name} comes before {max(applied)}, which is already applied: give it a later number"
        )
    if newer := sorted(applied.keys() - {migration.name for migration in wanted}):
        log.warning("this database was migrated by a newer Tollgate, up to %s: nothing to do", newer[-1])
    return missing


async def _applied(connection: Connection) -> dict[str, str]:
    """Empty where nothing has ever been applied."""
    cursor = await connection.execute("SELECT to_regclass('schema_migrations') IS NOT NULL")
    ((begun,),) = await cursor.fetchall()
    if not begun:
        return {}
    rows = await connection.execute("SELECT name, checksum FROM schema_migrations")
    return {name: checksum async for name, checksum in rows}


async def _what_is_missing(connection: Connection) -> str:
    """Why a role may not migrate, and the statement that its administrator has to run."""
    cursor = await connection.execute(_RIGHTS)
    ((role, schema, may_create, may_read, owner),) = await cursor.fetchall()
    if schema is None:
        return f"the role {role} may use no schema of its search_path: ALTER ROLE {quoted(role)} SET search_path = ..."
    if not may_read:
        return f"the role {role} may not read schema_migrations: GRANT SELECT ON schema_migrations TO {quoted(role)}"
    if not may_create:
        return (
            f"the role {role} may not make tables in the schema {schema}: "
            f"GRANT CREATE ON SCHEMA {quoted(schema)} TO {quoted(role)}"
        )
    return f"the role {role} may not change the tables of {owner}: run tollgate migrate as {owner}"


async def _apply(connection: Connection, migration: Migration) -> None:
    await connection.execute(migration.text.encode())
    await connection.execute(
        "INSERT INTO schema_migrations (name, checksum) VALUES (%s, %s)", (migration.name, migration.checksum)
    )
    log.info("migration applied", extra={"migration": migration.name})
