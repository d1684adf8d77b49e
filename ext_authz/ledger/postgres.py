"""The ledger in Postgres: writes each decision once, whatever comes twice, late or broken; forgets what is not kept.

Only records, user names and tokens are forgotten. The rows of the ledger stay: bills are based on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from operator import attrgetter
from typing import LiteralString
from uuid import UUID

import psycopg
from msgspec import Struct
from psycopg import DataError, IntegrityError

from ext_authz.db.postgres import Connection
from ext_authz.ledger.event import COLUMNS
from ext_authz.ledger.stream import Reject, Row, is_superseded

NEEDS = {
    "usage_events": ("SELECT", "INSERT", "UPDATE"),
    "usage_rejects": ("INSERT",),
    "tokens_seen": ("SELECT", "DELETE"),
}
"""The privileges of a usage worker."""
MAX_REASON = 500
SLICE = timedelta(minutes=10)
"""The part of the ledger whose records one transaction forgets: no transaction is long."""
TOKENS_KEPT = timedelta(days=7)
"""Since a token was last seen: longer than tokens live, since only living ones need to be revoked."""

_NAMES: LiteralString = ", ".join(COLUMNS)
_PAYLOAD: LiteralString = ", ".join(COLUMNS[: COLUMNS.index("username")])
_TEXTS: LiteralString = ", ".join(["%b::text[]"] * (len(COLUMNS) - 3))

# Binary arrays: measured 108,000 rows/s with the indexes, against 70,000 as text; COPY through a table gave 123,000.
_INSERT: LiteralString = f"""
INSERT INTO usage_events ({_NAMES})
SELECT {_NAMES.replace("occurred_at", "to_timestamp(occurred_at)").replace("facts", "facts::json")}
FROM unnest(%b::uuid[], {_TEXTS}, %b::float8[], %b::text[]) AS incoming ({_NAMES})
ON CONFLICT (decision_id) DO NOTHING RETURNING decision_id
"""  # noqa: S608 - constants
_SUPERSEDED = ("decision_id", "occurred_at", "reason", "code", "degraded")
_SUPERSEDE: LiteralString = """
UPDATE usage_events SET occurred_at = to_timestamp(latter.occurred_at), reason = latter.reason, code = latter.code,
    degraded = latter.degraded
FROM unnest(%b::uuid[], %b::float8[], %b::text[], %b::text[], %b::text[])
    AS latter (decision_id, occurred_at, reason, code, degraded)
WHERE usage_events.decision_id = latter.decision_id
"""
_STORED: LiteralString = f"SELECT {_PAYLOAD} FROM usage_events WHERE decision_id = ANY(%s)"  # noqa: S608 - constants
_REJECT: LiteralString = """
INSERT INTO usage_rejects (stream, entry_id, raw, reason) VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING
"""
_REJECT_NOTHING: LiteralString = (
    "INSERT INTO usage_rejects (stream, entry_id, raw, reason) SELECT '', '', '', '' WHERE false"
)
_FORGET_NOTHING: LiteralString = "DELETE FROM tokens_seen WHERE false AND last_seen_at < now()"

# Locked, so that only one of several workers does it.
_SLICE = "SELECT since, least(since + %s, now() - %s) FROM usage_facts FOR UPDATE SKIP LOCKED"
_FORGET = """
UPDATE usage_events SET facts = NULL, username = ''
WHERE occurred_at >= %s AND occurred_at < %s AND (facts IS NOT NULL OR username <> '')
"""
_FORGOTTEN = "UPDATE usage_facts SET since = %s"


class Moved(Struct, frozen=True):
    """The result of a batch."""

    inserted: int = 0
    duplicate: int = 0
    """Also the second event of a decision whose answer from Redis was lost."""
    broken: int = 0
    """Kept in `usage_rejects`: broken, or another event under a known id."""

    def __add__(self, other: Moved) -> Moved:
        return Moved(self.inserted + other.inserted, self.duplicate + other.duplicate, self.broken + other.broken)


async def try_statements(connection: Connection) -> None:
    """Every statement of a usage worker, without a row: raises if Postgres would refuse one. Changes nothing."""
    async with connection.transaction():
        await _insert(connection, [])
        await connection.execute(_SUPERSEDE, [[] for _ in _SUPERSEDED])
        await connection.execute(_STORED, ([],))
        await connection.execute(_REJECT_NOTHING)
        await connection.execute(_FORGET_NOTHING)


async def write(connection: Connection, stream: str, rows: Sequence[Row], rejects: Sequence[Reject]) -> Moved:
    """Committed when this returns; repeating it changes nothing.

    A row that Postgres refuses (a NUL character, a name too long, a constraint) is found by halving the batch, and kept
    in `usage_rejects`; the others are written. A failure that is not about a row is raised.
    """
    try:
        return await _write(connection, stream, rows, rejects)
    except Exception as refused:
        if not rows or not is_about_a_row(refused):
            raise
        if len(rows) == 1:
            return await _write(connection, stream, [], [*rejects, _refused(rows[0], refused)])
    half = len(rows) // 2
    return await write(connection, stream, rows[:half], rejects) + await write(connection, stream, rows[half:], [])


_NOT_ABOUT_A_ROW = frozenset({"08", "25", "28", "3D", "3F", "40", "42", "53", "55", "57", "58", "F0", "XX"})
"""Classes of SQLSTATE: connection, transaction, login, tables and rights, resources, locks, operator, system."""


def is_about_a_row(refused: Exception) -> bool:
    """Data, integrity, limits, a trigger that raises, a bug: this row will never pass, others may."""
    if isinstance(refused, psycopg.Error):
        state = (refused.sqlstate or "")[:2]
        return state not in _NOT_ABOUT_A_ROW if state else isinstance(refused, DataError | IntegrityError)
    return not isinstance(refused, OSError | MemoryError)


def _refused(row: Row, refused: Exception) -> Reject:
    by = "postgres refused it" if isinstance(refused, psycopg.Error) else "a bug"
    return Reject(row.entry, f"{by}: {refused}")


async def _write(connection: Connection, stream: str, rows: Sequence[Row], rejects: Sequence[Reject]) -> Moved:
    # The same order in every worker, against deadlocks: the two events of a decision may come from two shards.
    rows = sorted(rows, key=attrgetter("decision_id.int"))
    async with connection.transaction():
        inserted = await _insert(connection, rows) if rows else set()
        again = _not_first(rows, inserted)
        conflicts = await _conflicts(connection, again) if again else []
        await _keep(connection, stream, [*rejects, *conflicts])
    return Moved(len(inserted), len(again) - len(conflicts), len(rejects) + len(conflicts))


async def _insert(connection: Connection, rows: Sequence[Row]) -> set[UUID]:
    async with connection.cursor(binary=True) as cursor:
        columns = zip(*(row.cells for row in rows), strict=True) if rows else ((),) * len(COLUMNS)
        await cursor.execute(_INSERT, [list(column) for column in columns])
        return {decision_id for (decision_id,) in await cursor.fetchall()}


def _not_first(rows: Sequence[Row], inserted: set[UUID]) -> list[Row]:
    """The rows whose decision was in the ledger already, or earlier in the batch."""
    if len(inserted) == len(rows):
        return []
    first = {row.decision_id: row for row in reversed(rows) if row.decision_id in inserted}
    return [row for row in rows if first.get(row.decision_id) is not row]


async def _conflicts(connection: Connection, again: Sequence[Row]) -> list[Reject]:
    """Those that differ from the row in the ledger: kept as rejects, never written over it.

    Except that a decision that was answered with 503 is in the ledger as that, whatever Redis settled before it.
    """
    cursor = await connection.execute(_STORED, ([row.decision_id for row in again],))
    stored = {row[0]: row for row in await cursor.fetchall()}
    pairs = [(row, stored[row.decision_id]) for row in again]
    await _supersede(connection, [row for row, held in pairs if is_superseded(held, by=row.payload)])
    return [
        Reject(row.entry, f"the ledger holds another event under {row.decision_id}")
        for row, held in pairs
        if not (held == row.payload or is_superseded(held, by=row.payload) or is_superseded(row.payload, by=held))
    ]


async def _supersede(connection: Connection, rows: Sequence[Row]) -> None:
    if rows:
        chosen = [[row.cells[COLUMNS.index(name)] for row in rows] for name in _SUPERSEDED]
        await connection.execute(_SUPERSEDE, chosen)


async def _keep(connection: Connection, stream: str, rejects: Sequence[Reject]) -> None:
    if rejects:
        values = [(stream, reject.entry.id, reject.entry.raw, _storable(reject.reason)) for reject in rejects]
        async with connection.cursor() as cursor:
            await cursor.executemany(_REJECT, values)


def _storable(reason: str) -> str:
    """In any encoding of a database, whatever the event put into an error message."""
    return ascii(reason[:MAX_REASON])[1:-1].replace("\\n", " ")


async def forget_records(connection: Connection, keep: timedelta) -> int:
    """Those of decisions older than `keep`, and the names of their users; returns how many."""
    forgotten, whole_slice = 0, True
    while whole_slice:
        async with connection.transaction():
            rows = await (await connection.execute(_SLICE, (SLICE, keep))).fetchall()
            if not rows or rows[0][1] <= rows[0][0]:
                break
            since, until = rows[0]
            forgotten += (await connection.execute(_FORGET, (since, until))).rowcount
            await connection.execute(_FORGOTTEN, (until,))
            whole_slice = until - since == SLICE
    return forgotten


async def forget_tokens(connection: Connection, records_kept: timedelta | None) -> int:
    """Those that were not seen for `TOKENS_KEPT`, or for as long as records are kept; returns how many."""
    kept = min(TOKENS_KEPT, records_kept or TOKENS_KEPT)
    return (await connection.execute("DELETE FROM tokens_seen WHERE last_seen_at < now() - %s", (kept,))).rowcount
