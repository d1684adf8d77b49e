"""One row of `revocations` as its copy in Redis needs it, and the queries that read such rows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any, LiteralString, NamedTuple

from ext_authz.db.pool import Connection

IN_FORCE: LiteralString = "(lifted_at IS NULL AND expires_at + interval '5 minutes' > now())"
"""Five minutes longer than it says, for leeway in `exp` and clocks that disagree: it only refuses dead tokens."""

COLUMNS: LiteralString = f"""
    id,
    revision,
    CASE WHEN NOT {IN_FORCE} THEN ''
         WHEN not_before IS NULL THEN '1'
         ELSE floor(extract(epoch FROM not_before))::bigint::text END,
    (extract(epoch FROM expires_at + interval '5 minutes') * 1000)::bigint
"""

_SINCE: LiteralString = f"SELECT {COLUMNS} FROM revocations WHERE xid >= %s::text::xid8"  # noqa: S608 - constants
_ALL: LiteralString = f"SELECT {COLUMNS} FROM revocations"  # noqa: S608 - constants
_COUNT: LiteralString = f"SELECT count(*) FROM revocations WHERE {IN_FORCE}"  # noqa: S608 - constants


ANSWER = 10.0
"""Longest wait for one answer of Postgres, in seconds; no request waits for these."""


class Change(NamedTuple):
    """The state of one row. The copy takes it unless it holds a later revision of the same row."""

    id: str
    revision: int
    value: str
    """As `redis_keys.revocation` says; empty when it is not in force (lifted or expired)."""
    expires_ms: int
    """When Redis may forget it."""


def change(row: Sequence[Any]) -> Change:
    """From a row of COLUMNS."""
    return Change(*row)


async def horizon(connection: Connection) -> str:
    """The oldest transaction still under way: whatever is older is visible to every statement from now on.

    Read it *before* the rows, and ask for rows since it the next time: then a row whose transaction began long ago
    and commits late is still found.
    """
    async with asyncio.timeout(ANSWER):
        cursor = await connection.execute("SELECT pg_snapshot_xmin(pg_current_snapshot())::text")
        ((xid,),) = await cursor.fetchall()
    return str(xid)


async def changed_since(connection: Connection, xid: str) -> list[Change]:
    """Rows written by transactions that were under way at `horizon`, or began later; lifted and expired ones too."""
    async with asyncio.timeout(ANSWER):
        cursor = await connection.execute(_SINCE, (xid,))
        return [change(row) for row in await cursor.fetchall()]


async def chunks_of_all(connection: Connection, size: int) -> AsyncGenerator[list[Change]]:
    """Every row of the table in one snapshot, in chunks; close it (`aclosing`), it holds a transaction."""
    async with connection.transaction(), connection.cursor(name="revocations") as cursor:
        await cursor.execute(_ALL)
        while rows := await asyncio.wait_for(cursor.fetchmany(size), ANSWER):
            yield [change(row) for row in rows]


async def clean(connection: Connection) -> None:
    """Delete rows that have been out of force for long."""
    async with asyncio.timeout(ANSWER):
        await connection.execute("DELETE FROM revocations WHERE expires_at < now() - interval '1 hour'")


async def count(connection: Connection) -> int:
    """How many are in force."""
    async with asyncio.timeout(ANSWER):
        cursor = await connection.execute(_COUNT)
        ((rows,),) = await cursor.fetchall()
    return int(rows)
