"""Whether the tables exist, and whether this role has the privileges that a process needs; if not, what is missing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager

import psycopg
from psycopg import sql
from pydantic import SecretStr

from ext_authz.db.causes import MIGRATE, unavailable
from ext_authz.db.postgres import Connection, connect
from ext_authz.errors import Unavailable

Needs = Mapping[str, tuple[str, ...]]
"""Tables, and what a process does with each: SELECT, INSERT, UPDATE, DELETE."""

_ENCODINGS = ("UTF8", "SQL_ASCII")
"""Of databases that can hold every name; the second stores bytes as they come, which are UTF-8."""
OLDEST_SERVER = 14
"""Postgres 14 finds the rows of a block without reading all blocks before it: revocations are read by blocks."""
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
    """Query as the process does; changes nothing.

    Raises:
        Unavailable: "postgres", and what to do.
    """
    try:
        async with asyncio.timeout(ANSWER):
            await ask(connection)
            wrong = await unfit(connection, needs)
    except psycopg.Error as failure:
        raise await diagnosis(connection, needs, failure) from failure
    except TimeoutError as failure:
        raise unavailable(failure) from failure
    if wrong:
        raise Unavailable("postgres", wrong, answers=True)


async def diagnosis(connection: Connection, needs: Needs, failure: psycopg.Error) -> Unavailable:
    """What exactly is missing, where a statement failed for a reason that has to do with the tables."""
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


_STATE = """
SELECT pg_is_in_recovery(), current_database(), getdatabaseencoding(), array(SELECT name FROM unnest(%s::text[]) name
    WHERE row_security_active(name))
"""


async def unfit(connection: Connection, tables: Collection[str] = ()) -> str:
    """What makes no statement fail, and still gives wrong or slow answers; empty where nothing does."""
    version = connection.info.server_version // 10_000
    if version < OLDEST_SERVER:
        return f"it is Postgres {version}, and {OLDEST_SERVER} or newer is needed"
    cursor = await connection.execute(_STATE, (list(tables),))
    ((standby, database, encoding, hidden),) = await cursor.fetchall()
    if standby:
        return "it is a standby, which may lag behind: TOLLGATE_DATABASE_URL must name the primary"
    if encoding not in _ENCODINGS:
        create = "create one with ENCODING 'UTF8' TEMPLATE template0"
        return f"the database {database} is encoded in {encoding}, which cannot hold every name: {create}"
    if hidden:
        return f"row level security hides rows of {hidden[0]} from this role: ALTER ROLE ... BYPASSRLS"
    return ""


_FOUND = """
SELECT current_user, to_regclass(%(table)s) IS NOT NULL, schema, has_schema_privilege(schema, 'USAGE'),
    array(SELECT wanted FROM unnest(%(rights)s::text[]) wanted
          WHERE NOT has_table_privilege(to_regclass(%(table)s), wanted))
FROM (SELECT min(nspname::text) AS schema FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
      WHERE relname = %(table)s AND relkind IN ('r', 'p') AND nspname !~ '^pg_temp') AS found
"""


async def _missing(connection: Connection, table: str, rights: tuple[str, ...]) -> str:
    """Empty when this role sees the table and may do all of that with it."""
    cursor = await connection.execute(_FOUND, {"table": table, "rights": list(rights)})
    ((role, visible, schema, may_enter, missing),) = await cursor.fetchall()
    what = ", ".join(missing)
    if visible:
        return f"the role may not {what} in {table}: {_grant(what, table, role)}" if missing else ""
    if schema is None:
        return f"no table {table}: {MIGRATE}"
    if not may_enter:
        return f"the role may not use the schema of its tables: {_grant('USAGE', f'SCHEMA {quoted(schema)}', role)}"
    path = f"ALTER ROLE {quoted(role)} SET search_path = {quoted(schema)}"
    return f"its tables are in the schema {schema}, which search_path does not name: {path}"


def _grant(what: str, on: str, role: str) -> str:
    return f"GRANT {what} ON {on} TO {quoted(role)}"


def quoted(name: str) -> str:
    """As SQL takes it: bare where it may stand so."""
    return name if name.isidentifier() and name.islower() else sql.Identifier(name).as_string()
