"""The outbox of the ledger in Postgres: which decisions have to be sent to a broker, and in which state.

Triggers write every change into `usage_outbox`, in the transaction that makes it, once somebody publishes. What is sent
is the state of the decision in the snapshot in which its changes were found: a later change has a row of its own, which
is left there. docs/adr/0062-outbox.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, LiteralString
from uuid import UUID

from msgspec import Struct

from ext_authz.db.postgres import Connection
from ext_authz.ledger.decision_event import Decision
from ext_authz.ledger.reconcile import GRACE

NEEDS = {
    "usage_events": ("SELECT",),
    "call_outcomes": ("SELECT",),
    "usage_outbox": ("SELECT", "DELETE"),
    "usage_publishing": ("SELECT", "INSERT"),
    "leases": ("SELECT", "INSERT", "UPDATE"),
}
"""The privileges of who publishes."""
NEEDS_OF_OPERATORS = {
    "usage_events": ("SELECT",),
    "usage_outbox": ("SELECT", "INSERT", "DELETE"),
    "usage_publishing": ("SELECT", "DELETE"),
}
MOST_COUNTED = 1_000_000
"""Changes that wait, beyond which they are not counted."""

_BEGIN: LiteralString = "INSERT INTO usage_publishing DEFAULT VALUES ON CONFLICT DO NOTHING"
# One statement, and so one snapshot of all tables. The last columns are the fields of a `Decision`.
_TAKE: LiteralString = """
WITH due AS MATERIALIZED (
    (SELECT decision_id FROM usage_outbox WHERE settled ORDER BY decision_id LIMIT %(most)s)
    UNION
    (SELECT decision_id FROM usage_outbox WHERE NOT settled AND decision_id < %(overdue)s
     ORDER BY decision_id LIMIT %(most)s)
), taken AS MATERIALIZED (
    SELECT waiting.decision_id, array_agg(waiting.settled) AS settled, array_agg(waiting.change) AS changes
    FROM due CROSS JOIN LATERAL (
        SELECT * FROM usage_outbox WHERE settled IN (false, true) AND usage_outbox.decision_id = due.decision_id
    ) AS waiting GROUP BY waiting.decision_id
)
SELECT taken.settled, taken.changes, event.occurred_at IS NOT NULL AS found, taken.decision_id,
    usage_revision(reason, degraded, call.status IS NOT NULL) AS revision, occurred_at,
    issuer, subject, client, route, model, model_version, reason, code, degraded, policy,
    outcome, billed, requests, counts.units, counts.bytes_in, counts.bytes_out, seconds
FROM taken LEFT JOIN usage_events AS event USING (decision_id) LEFT JOIN call_outcomes AS call USING (decision_id)
CROSS JOIN LATERAL usage_counts(
    reason, path, call.status, call.grpc_status, call.flags, call.upstream_ms,
    call.duration_ms, call.units, call.bytes_in, call.bytes_out
) AS counts
"""
_SENT: LiteralString = """
DELETE FROM usage_outbox USING unnest(%b::boolean[], %b::uuid[], %b::text[]) AS sent (settled, decision_id, change)
WHERE usage_outbox.settled = sent.settled AND usage_outbox.decision_id = sent.decision_id
    AND usage_outbox.change = sent.change
"""
_AGAIN: LiteralString = """
INSERT INTO usage_outbox SELECT true, decision_id, 'again' FROM usage_events
WHERE occurred_at >= %s AND occurred_at < %s AND EXISTS (SELECT FROM usage_publishing)
ON CONFLICT DO NOTHING
"""
_STATE: LiteralString = """
SELECT now(), (SELECT since FROM usage_publishing),
    (SELECT count(*) FROM (SELECT FROM usage_outbox LIMIT %s) AS waiting),
    (SELECT decision_id FROM usage_outbox WHERE settled ORDER BY decision_id LIMIT 1),
    (SELECT decision_id FROM usage_outbox WHERE NOT settled ORDER BY decision_id LIMIT 1)
"""


class Batch(Struct, frozen=True):
    """What one round sends."""

    decisions: list[Decision]
    rows: list[tuple[bool, UUID, str]]
    """Of the outbox: what these decisions are the state after, and outcomes whose decision is not there (yet)."""


class State(Struct, frozen=True):
    """Of the outbox."""

    since: datetime | None
    """None: nobody publishes."""
    waiting: int
    """Changes, at most `MOST_COUNTED`."""
    age: float
    """Seconds since the oldest decision that should have been sent; 0: there is none."""


async def begin(connection: Connection) -> None:
    """From now on changes are collected. Those of transactions that have begun before may be missing: `again` adds
    them."""
    await connection.execute(_BEGIN)


async def take(connection: Connection, now: datetime, most: int) -> Batch:
    """The oldest decisions that wait; those without an outcome only after `GRACE`. Changes nothing."""
    overdue = UUID(int=int((now - GRACE).timestamp() * 1000) << 80)
    async with connection.cursor(binary=True) as cursor:
        await cursor.execute(_TAKE, {"most": most, "overdue": overdue})
        found = await cursor.fetchall()
    decisions = [_decision(row) for settled, changes, is_there, *row in found if is_there]
    rows = [
        (waited, row[0], change)
        for settled, changes, _, *row in found
        for waited, change in zip(settled, changes, strict=True)
    ]
    return Batch(decisions, rows)


def _decision(row: Sequence[Any]) -> Decision:
    decision_id, revision, occurred_at, *cells, seconds = row
    return Decision(*[decision_id, revision, occurred_at.astimezone(UTC), *cells, float(seconds)])


async def sent(connection: Connection, batch: Batch) -> None:
    """Acknowledged by the broker: need not be sent again. What changed since `take` stays."""
    columns = [list(column) for column in zip(*batch.rows, strict=True)] or [[], [], []]
    await connection.execute(_SENT, columns)


async def again(connection: Connection, since: datetime, until: datetime) -> int:
    """Send the decisions of a period once more; how many, or 0 where nobody publishes."""
    return (await connection.execute(_AGAIN, (since, until))).rowcount


async def end(connection: Connection) -> int:
    """Collect no more, and forget what waits; how many changes did."""
    async with connection.transaction():
        await connection.execute("DELETE FROM usage_publishing")
        return (await connection.execute("DELETE FROM usage_outbox")).rowcount


async def state(connection: Connection) -> State:
    """Of now."""
    cursor = await connection.execute(_STATE, (MOST_COUNTED,))
    ((now, since, waiting, settled, unsettled),) = await cursor.fetchall()
    ages = [_age(now, settled), _age(now, unsettled) if _age(now, unsettled) > GRACE.total_seconds() else 0.0]
    return State(since, waiting, max(ages))


def _age(now: datetime, decision_id: UUID | None) -> float:
    """By the time in the id."""
    return max(0.0, now.timestamp() - (decision_id.int >> 80) / 1000) if decision_id else 0.0
