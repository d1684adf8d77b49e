"""The rows of `revocations` as the copies need them, and the queries that read them.

A copy is followed up by `Position`: what Postgres had committed when it was last brought up to date. Rows travel as
chunks of JSON, which Postgres writes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain
from typing import Any, LiteralString, NamedTuple, Self

import msgspec
from msgspec import Struct
from psycopg.errors import InsufficientPrivilege, ReadOnlySqlTransaction

from ext_authz.db.postgres import Connection
from ext_authz.db.tables import ensure_usable

NEEDS = {"revocations": ("SELECT",)}
"""What a check, and who copies, does with the table."""

IN_FORCE: LiteralString = "(lifted_at IS NULL AND expires_at + interval '5 minutes' > now())"
"""Five minutes longer than it says, for leeway in `exp` and clocks that disagree: it only refuses dead tokens."""

COLUMNS: LiteralString = f"""
    id,
    CASE WHEN NOT {IN_FORCE} THEN '-' || revision
         WHEN not_before IS NULL THEN revision::text
         ELSE revision || ':' || floor(extract(epoch FROM not_before))::bigint END AS held,
    (extract(epoch FROM expires_at + interval '5 minutes') * 1000)::bigint AS expires_ms
"""

_NO_ROW: LiteralString = f"SELECT {COLUMNS} FROM revocations WHERE false"  # noqa: S608 - constants
_OLD: LiteralString = "expires_at < now() - interval '1 hour'"
_ROW: LiteralString = """to_json(id)::text || ',"' || held || '","' || expires_ms || '"'"""
_CHUNK: LiteralString = f"coalesce('[' || string_agg({_ROW}, ',') || ']', '[]')"
_BLOCKS: LiteralString = "ctid >= ('(' || %(first)s || ',0)')::tid AND ctid < ('(' || %(after)s || ',0)')::tid"

# Another database, or the same one on another branch of its history (a standby took over, a backup was restored),
# counts transactions differently.
_HISTORY: LiteralString = (
    "(SELECT system_identifier FROM pg_control_system()) || '-' || left(pg_walfile_name(pg_current_wal_lsn()), 8)"
)
_POSITION: LiteralString = f"SELECT {_HISTORY}, pg_current_snapshot()::text"

# Two branches, each in the order of the index: for an OR under a LIMIT the planner may read the whole table instead.
# The upper bound keeps out rows that a restored dump brought from a database that counted further.
_CHANGES: LiteralString = f"""
SELECT {_HISTORY}, pg_current_snapshot()::text, count(*), {_CHUNK} FROM (
    (SELECT {COLUMNS} FROM revocations WHERE xid = ANY(%(open)s::xid8[]) ORDER BY xid LIMIT %(most)s)
    UNION ALL
    (SELECT {COLUMNS} FROM revocations WHERE xid >= %(next)s::xid8 AND xid < pg_snapshot_xmax(pg_current_snapshot())
     ORDER BY xid LIMIT %(most)s)
) AS changed
"""  # noqa: S608 - constants

_ALL_CHANGES: LiteralString = f"""
SELECT {_ROW} FROM (
    SELECT {COLUMNS} FROM revocations
    WHERE xid = ANY(%(open)s::xid8[]) OR (xid >= %(next)s::xid8 AND xid < pg_snapshot_xmax(pg_current_snapshot()))
) AS changed
"""  # noqa: S608 - constants

_PAGE: LiteralString = f"""
SELECT {_CHUNK}, count(*) FILTER (WHERE in_force), count(*) FILTER (WHERE old),
       pg_relation_size('revocations') / current_setting('block_size')::bigint, pg_relation_filenode('revocations')
FROM (SELECT {COLUMNS}, {IN_FORCE} AS in_force, {_OLD} AS old FROM revocations WHERE {_BLOCKS}) AS page
"""  # noqa: S608 - constants

_DELETE_OLD: LiteralString = f"DELETE FROM revocations WHERE {_BLOCKS} AND {_OLD}"  # noqa: S608 - constants
_NAMED: LiteralString = f"SELECT {COLUMNS} FROM revocations WHERE id = ANY(%s)"  # noqa: S608 - constants

ANSWER = 10.0
"""Longest wait for one answer of Postgres, in seconds; no request waits for these."""
MOST = 2000
"""Rows that one follow-up brings; where there are more, a bulk load, they come by the side."""
BLOCKS = 32
"""Blocks of the table in one page: about 1,400 rows, at most 3,000."""


class TableRewritten(Exception):
    """VACUUM FULL and the like have moved rows to other blocks: pages read so far say nothing."""


class Change(NamedTuple):
    """The state of one row. The copy takes it unless it holds a later revision of the same row."""

    id: str
    held: str
    """As `redis_keys.revocation` says."""
    expires_ms: int
    """When Redis may forget it."""

    @property
    def in_force(self) -> bool:
        return not self.held.startswith("-")


def revision_of(held: str) -> int:
    return int(held.removeprefix("-").partition(":")[0])


class Position(Struct, frozen=True):
    """Everything that was visible in this snapshot has been seen. What has not is found by transaction, not by time
    or number: a transaction that begins early and commits late is neither late nor early in any other order."""

    history: str
    snapshot: str
    """`pg_snapshot` as text: xmin:xmax:transactions under way."""

    @classmethod
    def parse(cls, text: str) -> Self:
        return cls(*text.split(" "))

    def __str__(self) -> str:
        return f"{self.history} {self.snapshot}"

    def precedes(self, other: Position) -> bool:
        """False where `other` is on another branch of history, or before this one: the database was restored."""
        return self.history == other.history and int(self._next) <= int(other._next)

    @property
    def _next(self) -> str:
        return self.snapshot.split(":")[1]

    def missing(self) -> dict[str, object]:
        """The transactions that had not been seen, as the queries take them."""
        _, after, under_way = self.snapshot.split(":")
        return {"next": after, "open": f"{{{under_way}}}", "most": MOST + 1}


class Page(NamedTuple):
    """The rows in some blocks of the table."""

    chunk: str
    first: int
    """Its first block."""
    in_force: int
    old: int
    """How many have been out of force for long."""
    blocks: int
    """Of the whole table, at that moment."""
    filenode: int


Row = tuple[str, str, str]
"""Id, held and expiry of one row of a chunk."""


def rows_of(chunk: str) -> Iterator[Row]:
    fields = iter(msgspec.json.decode(chunk, type=list[str]))
    return zip(fields, fields, fields, strict=True)


def chunk_with(rows: Iterable[Row]) -> str:
    """As Postgres writes it: a flat array; each id once."""
    return msgspec.json.encode(list(chain.from_iterable(rows))).decode()


def chunk_of(changes: Sequence[Change]) -> str:
    """Of every row its latest revision only."""
    latest = {change.id: change for change in sorted(changes, key=lambda change: revision_of(change.held))}
    return chunk_with((change.id, change.held, str(change.expires_ms)) for change in latest.values())


async def position(connection: Connection) -> Position:
    async with asyncio.timeout(ANSWER):
        ((history, snapshot),) = await (await connection.execute(_POSITION)).fetchall()
    return Position(history, snapshot)


class Changes(NamedTuple):
    """What was written since a position; lifted and expired rows too."""

    position: Position
    """Where Postgres is now."""
    chunk: str
    whole: bool
    """False where there are more than MOST: ask `chunks_since`."""


async def changes(connection: Connection, since: Position) -> Changes:
    async with asyncio.timeout(ANSWER):
        ((history, snapshot, rows, chunk),) = await (await connection.execute(_CHANGES, since.missing())).fetchall()
    return Changes(Position(history, snapshot), chunk, rows <= MOST)


async def chunks_since(connection: Connection, since: Position) -> AsyncGenerator[str]:
    """The same, however many; close it (`aclosing`), it holds a transaction."""
    async with connection.transaction(), connection.cursor(name="revocations") as cursor:
        await cursor.execute(_ALL_CHANGES, since.missing())
        while rows := await asyncio.wait_for(cursor.fetchmany(MOST // 2), ANSWER):
            yield f"[{','.join(row for (row,) in rows)}]"


async def pages(connection: Connection, size: int) -> AsyncGenerator[Page]:
    """The whole table, `size` blocks at a time, each page as of its own moment.

    In the order of storage: that costs no index, no sort and no long transaction. Rows keep their place until they are
    written again, and then they are changes since the `position` that was taken before.

    Raises:
        TableRewritten: start over.
    """
    first, filenode = 0, None
    while True:
        page = await _page(connection, first, size)
        if filenode not in (None, page.filenode):
            raise TableRewritten("the table was rewritten while it was read")
        yield page
        first, filenode = first + size, page.filenode
        if first >= page.blocks:
            return


async def _page(connection: Connection, first: int, size: int) -> Page:
    async with asyncio.timeout(ANSWER):
        (row,) = await (await connection.execute(_PAGE, {"first": first, "after": first + size})).fetchall()
    chunk, *numbers = row
    return Page(chunk, first, *numbers)


async def ensure_readable(connection: Connection) -> None:
    """Before all that is read is taken for all there is: a standby may lag behind, row level security may hide rows.

    Raises:
        Unavailable: "postgres", and what to do.
    """
    await ensure_usable(connection, NEEDS, lambda asked: asked.execute(_NO_ROW))


async def delete_old(connection: Connection, page: Page, size: int) -> None:
    """Delete rows of a page that have been out of force for long; by a role that may only read nothing is deleted."""
    async with asyncio.timeout(ANSWER):
        with suppress(InsufficientPrivilege, ReadOnlySqlTransaction):
            await connection.execute(_DELETE_OLD, {"first": page.first, "after": page.first + size})


async def count(connection: Connection) -> int:
    """How many rows there are; reads all of the table."""
    async with asyncio.timeout(ANSWER * 6):
        ((rows,),) = await (await connection.execute("SELECT count(*) FROM revocations")).fetchall()
    return int(rows)


async def named(connection: Connection, ids: Sequence[str]) -> list[Change]:
    """These rows, as they are now."""
    async with asyncio.timeout(ANSWER):
        return [change(row) for row in await (await connection.execute(_NAMED, (list(ids),))).fetchall()]


def change(row: Sequence[Any]) -> Change:
    """From a row of COLUMNS."""
    return Change(*row)
