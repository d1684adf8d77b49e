"""Whether the tables are there, and whether this role may do with them what a process does; if not, what is missing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

import psycopg
from psycopg import sql
from pydantic import SecretStr

from ext_authz.db.causes import MIGRATE, unavailable
from ext_authz.db.postgres import Connection, connect
from ext_authz.errors import Unavailable

Needs = Mapping[str, tuple[str, ...]]
"""Tables, and what a process does with each: SELECT, INSERT, UPDATE, DELETE."""

ENCODINGS = ("UTF8", "SQL_ASCII")
"""Of databases that hold every name; the second takes whatever bytes come, which are UTF-8."""
OLDEST_SERVER = 14
"""Postgres 14 finds the rows of a block without reading all blocks before it: a revocation table is read so."""
ANSWER = 5.0
"""Longest wait for an answer, in seconds."""


@asynccontextmanager
async def connected(url: SecretStr, needs: Needs) -> AsyncGenerator[Connection]:
    """A connection for one command.

    Raises:
        Unavailable: "postgres", and what to do.
    """
    try:
        async with await connect(url.get_secret_value()) as connection:
            try:
                yield connection
            except psycopg.ProgrammingError as failure:
                raise await diagnosis(connection, needs, failure) from failure
    except psycopg.Error as failure:
        raise unavailable(failure) from failure


async def ensure_usable(connection: Connection, needs: Needs, ask: Callable[[Connection], Awaitable[object]]) -> None:
    """Ask for real what a process asks of its tables; changes nothing.

    Raises:
        Unavailable: "postgres", and what to do.
    """
    try:
        async with asyncio.timeout(ANSWER):
            await ask(connection)
            wrong = await _silently_wrong(connection, needs)
    except psycopg.Error as failure:
        raise await diagnosis(connection, needs, failure) from failure
    except TimeoutError as failure:
        raise unavailable(failure) from failure
    if wrong:
        raise Unavailable("postgres", wrong, answers=True)


async def diagnosis(connection: Connection, needs: Needs, failure: psycopg.Error) -> Unavailable:
    """What exactly is missing, where a connection failed for a reason that has to do with the tables."""
    if (failure.sqlstate or "")[:2] not in {"42", "3F"}:
        return unavailable(failure)
    try:
        async with asyncio.timeout(ANSWER):
            for table, rights in needs.items():
                if missing := await _missing(connection, table, rights):
                    return Unavailable("postgres", missing, answers=True)
    except (psycopg.Error, OSError) as again:
        return unavailable(again)
    return unavailable(failure)


def too_old(connection: Connection) -> str:
    """Empty for a server that is new enough."""
    version = connection.info.server_version // 10_000
    return f"it is Postgres {version}, and {OLDEST_SERVER} or newer is needed" if version < OLDEST_SERVER else ""


_STATE = """
SELECT pg_is_in_recovery(), getdatabaseencoding(), array(SELECT name FROM unnest(%s::text[]) name
    WHERE row_security_active(name))
"""


async def _silently_wrong(connection: Connection, needs: Needs) -> str:
    """What fails nothing, and still gives wrong answers, or ever slower ones."""
    if old := too_old(connection):
        return old
    cursor = await connection.execute(_STATE, (list(needs),))
    ((standby, encoding, hidden),) = await cursor.fetchall()
    if standby:
        return "it is a standby, which may lag behind: TOLLGATE_DATABASE_URL must name the primary"
    if encoding not in ENCODINGS:
        return f"the database is encoded in {encoding}, which cannot hold every name: create one with ENCODING 'UTF8'"
    if hidden:
        return f"row level security hides rows of {hidden[0]} from this role: ALTER ROLE ... BYPASSRLS"
    return ""


_FOUND = """
SELECT current_user, to_regclass(%(table)s) IS NOT NULL, array(
    SELECT nspname::text FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE relname = %(table)s AND relkind IN ('r', 'p') AND nspname !~ '^pg_temp' ORDER BY 1)
"""
_RIGHTS = "SELECT array(SELECT wanted FROM unnest(%s::text[]) wanted WHERE NOT has_table_privilege(%s, wanted))"
_USAGE = "SELECT has_schema_privilege(%s, 'USAGE')"


async def _missing(connection: Connection, table: str, rights: tuple[str, ...]) -> str:
    """Empty when this role sees the table and may do all of that with it."""
    cursor = await connection.execute(_FOUND, {"table": table})
    ((role, visible, schemas),) = await cursor.fetchall()
    if not visible:
        return await _not_visible(connection, table, role, schemas)
    cursor = await connection.execute(_RIGHTS, (list(rights), table))
    ((missing,),) = await cursor.fetchall()
    what = ", ".join(missing)
    return f"the role may not {what} in {table}: {_grant(what, table, role)}" if missing else ""


async def _not_visible(connection: Connection, table: str, role: str, schemas: list[str]) -> str:
    if not schemas:
        return f"no table {table}: {MIGRATE}"
    cursor = await connection.execute(_USAGE, (schemas[0],))
    ((may_enter,),) = await cursor.fetchall()
    if not may_enter:
        return f"the role may not use the schema of its tables: {_grant('USAGE', f'SCHEMA {quoted(schemas[0])}', role)}"
    path = f"ALTER ROLE {quoted(role)} SET search_path = {quoted(schemas[0])}"
    return f"its tables are in the schema {schemas[0]}, which search_path does not name: {path}"


def _grant(what: str, on: str, role: str) -> str:
    return f"GRANT {what} ON {on} TO {quoted(role)}"


def quoted(name: str) -> str:
    """As SQL takes it: bare where it may stand so."""
    return name if name.isidentifier() and name.islower() else sql.Identifier(name).as_string()
