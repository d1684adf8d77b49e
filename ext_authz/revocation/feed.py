"""The change feed of the table `revocations`: what a copy reads from Postgres to be equal to it, and to stay so.

A copy reads the whole table by pages, then what was committed since a `Position`. Rows travel as chunks of JSON, which
Postgres writes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing, suppress
from itertools import chain
from typing import Any, LiteralString, NamedTuple

import msgspec
import psycopg
from psycopg.errors import InsufficientPrivilege, ReadOnlySqlTransaction

from ext_authz.db.causes import postgres_cause
from ext_authz.db.positions import HISTORY, POSITION, Position
from ext_authz.db.postgres import Connection, connect
from ext_authz.db.tables import ensure_usable
from ext_authz.errors import Unavailable

log = logging.getLogger(__name__)

NEEDS = {"revocations": ("SELECT",)}
"""The privileges of a check and of a copy."""

IN_FORCE: LiteralString = "(lifted_at IS NULL AND expires_at + interval '5 minutes' > now())"
"""Five minutes past the expiry, for leeway in `exp` and clocks that differ: it only refuses expired tokens."""

COLUMNS: LiteralString = f"""
    id,
    CASE WHEN NOT {IN_FORCE} THEN '-' || revision
         WHEN not_before IS NULL THEN revision::text
         ELSE revision || ':' || floor(extract(epoch FROM not_before))::bigint END AS held,
    (extract(epoch FROM expires_at + interval '5 minutes') * 1000)::bigint::text AS expires_ms
"""
"""Of one `Row`."""

_OLD: LiteralString = "expires_at < now() - interval '1 hour'"
_ROW: LiteralString = """to_json(id)::text || ',"' || held || '","' || expires_ms || '"'"""
_CHUNK: LiteralString = f"coalesce('[' || string_agg({_ROW}, ',') || ']', '[]')"
_BLOCKS: LiteralString = "ctid >= ('(' || %(first)s || ',0)')::tid AND ctid < ('(' || %(after)s || ',0)')::tid"

# Two branches, each in the order of the index: for an OR under a LIMIT the planner may read the whole table instead.
# The upper bound excludes rows that a restored dump brought from a database with higher transaction ids.
_CHANGED: LiteralString = f"""(
    (SELECT {COLUMNS} FROM revocations WHERE xid = ANY(%(open)s::xid8[]) ORDER BY xid LIMIT %(most)s)
    UNION ALL
    (SELECT {COLUMNS} FROM revocations WHERE xid >= %(next)s::xid8 AND xid < pg_snapshot_xmax(pg_current_snapshot())
     ORDER BY xid LIMIT %(most)s)
) AS changed"""  # noqa: S608 - constants
_CHANGES: LiteralString = f"SELECT {HISTORY}, pg_current_snapshot()::text, count(*), {_CHUNK} FROM {_CHANGED}"  # noqa: S608
_ALL_CHANGES: LiteralString = f"SELECT {_ROW} FROM {_CHANGED}"  # noqa: S608 - constants

_PAGE: LiteralString = f"""
SELECT {_CHUNK}, count(*) FILTER (WHERE in_force), count(*) FILTER (WHERE old),
       pg_relation_size('revocations') / current_setting('block_size')::bigint, pg_relation_filenode('revocations')
FROM (SELECT {COLUMNS}, {IN_FORCE} AS in_force, {_OLD} AS old FROM revocations WHERE {_BLOCKS}) AS page
"""  # noqa: S608 - constants

_DELETE_OLD: LiteralString = f"DELETE FROM revocations WHERE {_BLOCKS} AND {_OLD}"  # noqa: S608 - constants
_NAMED: LiteralString = f"SELECT {COLUMNS} FROM revocations WHERE id = ANY(%(ids)s)"  # noqa: S608 - constants

ANSWER = 10.0
"""Timeout of one query, in seconds; no request waits for these."""
MOST = 2000
"""Rows that `changes` returns at most; where there are more, a bulk load, `chunks_since` reads them."""
BLOCKS = 32
"""Blocks of the table in one page: about 1,400 rows, at most 3,000."""


class StartOver(Exception):
    """What was copied so far is void: read every row again."""


class Row(NamedTuple):
    """The state of one revocation. A copy takes it unless it holds a later revision of the same row."""

    id: str
    held: str
    """As described at `redis_keys.revocation`."""
    expires_ms: str
    """When Redis may remove it."""


def revision_of(held: str) -> int:
    return int(held.removeprefix("-").partition(":")[0])


def rows_of(chunk: str) -> Iterator[tuple[str, str, str]]:
    """The fields of each `Row`."""
    fields = iter(msgspec.json.decode(chunk, type=list[str]))
    return zip(fields, fields, fields, strict=True)


def chunk_of(rows: Iterable[tuple[str, str, str]]) -> str:
    """As Postgres writes it: a flat array; each id once."""
    return msgspec.json.encode(list(chain.from_iterable(rows))).decode()


class Changes(NamedTuple):
    """What was written after a position, lifted and expired rows included."""

    position: Position
    """Where Postgres is now."""
    chunk: str
    whole: bool
    """False where there are more than MOST rows: read `chunks_since` instead of `chunk`."""


class Page(NamedTuple):
    """The rows in some blocks of the table."""

    first: int
    """Its first block."""
    chunk: str
    in_force: int
    old: int
    """Rows that have been out of force for more than an hour."""
    blocks: int
    """Of the whole table, at that time."""
    filenode: int


class Feed:
    """Reads the table over one connection: every row once, then what has changed."""

    def __init__(self, connection: Connection, blocks: int) -> None:
        """`blocks`: of the table, read at a time."""
        self.position = Position("", "")
        """Up to where everything has been read."""
        self._connection = connection
        self._blocks = blocks

    async def everything(self) -> AsyncGenerator[str]:
        """Every row, also those written meanwhile.

        Raises:
            StartOver
        """
        ((history, snapshot),) = await _rows(self._connection, POSITION)
        self.position = Position(history, snapshot)
        async with aclosing(pages(self._connection, self._blocks)) as table:
            async for page in table:
                yield page.chunk
        async with aclosing(self.changes()) as chunks:
            async for chunk in chunks:
                yield chunk

    async def changes(self) -> AsyncGenerator[str]:
        """What was written after `position`, until little is left.

        Raises:
            StartOver: Postgres was restored or replaced.
        """
        whole = False
        while not whole:
            recent = await changes(self._connection, self.position)
            if not self.position.precedes(recent.position):
                raise StartOver
            if recent.whole:
                yield recent.chunk
            else:
                async with aclosing(chunks_since(self._connection, self.position)) as chunks:
                    async for chunk in chunks:
                        yield chunk
            self.position, whole = recent.position, recent.whole


async def changes(connection: Connection, since: Position) -> Changes:
    ((history, snapshot, rows, chunk),) = await _rows(connection, _CHANGES, since.unseen(MOST + 1))
    return Changes(Position(history, snapshot), chunk, rows <= MOST)


async def chunks_since(connection: Connection, since: Position) -> AsyncGenerator[str]:
    """All rows written after a position, however many; close it (`aclosing`), it holds a transaction."""
    async with connection.transaction(), connection.cursor(name="revocations") as cursor:
        await cursor.execute(_ALL_CHANGES, since.unseen())
        while rows := await asyncio.wait_for(cursor.fetchmany(MOST // 2), ANSWER):
            yield f"[{','.join(row for (row,) in rows)}]"


async def pages(connection: Connection, size: int) -> AsyncGenerator[Page]:
    """The whole table, `size` blocks at a time, each page as of its own time.

    In the order of storage: that needs no index, no sort and no long transaction. A row stays in its block until it is
    written again, and then it is a change since a `position` taken before.

    Raises:
        StartOver: VACUUM FULL or similar has moved rows to other blocks.
    """
    first, filenode = 0, None
    while True:
        (row,) = await _rows(connection, _PAGE, {"first": first, "after": first + size})
        page = Page(first, *row)
        if filenode not in (None, page.filenode):
            raise StartOver
        yield page
        first, filenode = first + size, page.filenode
        if first >= page.blocks:
            return


async def delete_old(connection: Connection, page: Page, size: int) -> None:
    """Delete the old rows of a page; does nothing without the privilege to."""
    async with asyncio.timeout(ANSWER):
        with suppress(InsufficientPrivilege, ReadOnlySqlTransaction):
            await connection.execute(_DELETE_OLD, {"first": page.first, "after": page.first + size})


async def count(connection: Connection) -> int:
    """The number of rows; reads the whole table."""
    ((rows,),) = await _rows(connection, "SELECT count(*) FROM revocations", seconds=ANSWER * 6)
    return int(rows)


async def named(connection: Connection, ids: Sequence[str]) -> list[Row]:
    """The present state of these rows; an id without a row is left out."""
    return [Row(*row) for row in await _rows(connection, _NAMED, {"ids": list(ids)})]


async def _rows(
    connection: Connection, query: LiteralString, values: Mapping[str, object] | None = None, seconds: float = ANSWER
) -> list[tuple[Any, ...]]:
    async with asyncio.timeout(seconds):
        return await (await connection.execute(query, values)).fetchall()


async def ensure_readable(connection: Connection) -> None:
    """Before what is read is taken for the whole table: a standby may lag behind, row level security may hide rows.

    Raises:
        Unavailable: "postgres", and what to do.
    """
    await ensure_usable(connection, NEEDS, lambda asked: named(asked, ()))


async def attempt(url: str, work: Callable[[Connection], Awaitable[None]], *, failed: Callable[[str], None]) -> None:
    """Run `work` with a connection that can read the table; `failed` is called with the cause where Postgres fails."""
    try:
        async with await connect(url) as connection:
            await ensure_readable(connection)
            await work(connection)
    except (psycopg.Error, Unavailable, OSError) as failure:  # TimeoutError is an OSError
        failed(postgres_cause(failure))
    except Exception:
        log.exception("revocations: unexpected failure, starting over")
