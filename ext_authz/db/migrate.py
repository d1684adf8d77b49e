"""Brings the database to the schema of this version: `migrations/NNNN_name.sql`, forward only, each exactly once."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

import psycopg
from msgspec import Struct

from ext_authz.db.pool import Connection, connect
from ext_authz.errors import ConfigError, Unavailable

log = logging.getLogger(__name__)

_LOCK = 7_263_517_091  # any number; the same in every version
_HISTORY = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    name text PRIMARY KEY,
    checksum text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)
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
    """Apply what is missing and return its names. All or nothing; several processes may do it at once.

    Raises:
        ConfigError: a migration was changed after it had been applied.
        Unavailable: "postgres".
    """
    wanted = read_migrations() if migrations is None else migrations
    try:
        connection = await connect(url)
        async with connection, connection.transaction():
            return await _migrate(connection, wanted)
    except psycopg.OperationalError as failure:
        raise Unavailable("postgres", str(failure).partition("\n")[0]) from failure


async def _migrate(connection: Connection, wanted: Sequence[Migration]) -> list[str]:
    # Held until the commit: whoever comes second finds everything done.
    await connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
    await connection.execute(_HISTORY)
    missing = pending(wanted, await _applied(connection))
    for migration in missing:
        await _apply(connection, migration)
    return [migration.name for migration in missing]


def pending(wanted: Sequence[Migration], applied: dict[str, str]) -> list[Migration]:
    """What is still to do. Names in the database that are not here belong to a newer version: fine during a rollout.

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
    return missing


async def _applied(connection: Connection) -> dict[str, str]:
    rows = await connection.execute("SELECT name, checksum FROM schema_migrations")
    return {name: checksum async for name, checksum in rows}


async def _apply(connection: Connection, migration: Migration) -> None:
    await connection.execute(migration.text.encode())
    await connection.execute(
        "INSERT INTO schema_migrations (name, checksum) VALUES (%s, %s)", (migration.name, migration.checksum)
    )
    log.info("migration applied", extra={"migration": migration.name})
