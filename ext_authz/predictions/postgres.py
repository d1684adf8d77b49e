"""The prediction log in Postgres: each row once, nothing that its owner deleted, nothing for longer than it is kept.

A deletion is a row of `prediction_deletions` first. Whoever writes predictions holds a lock, shared, and leaves out
what is deleted; whoever deletes holds it alone. So what a writer has in its hands is either in the table when the rows
are deleted, or left out.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import LiteralString, NamedTuple
from uuid import UUID

from ext_authz.db.postgres import Connection
from ext_authz.ledger.postgres import is_about_a_row
from ext_authz.predictions.files import Line

NEEDS = {
    "predictions": ("SELECT", "INSERT", "DELETE"),
    "prediction_deletions": ("SELECT", "UPDATE", "DELETE"),
    "usage_events": ("SELECT",),
}
"""The privileges of a usage worker that moves predictions."""
STEP = 5_000
"""Rows that one transaction deletes."""
_LOCK = 7_263_517_093
"""Any number; that of the audit log is 7263517092."""


class Caller(NamedTuple):
    """Who called, as the ledger has it under a decision."""

    issuer: str
    subject: str
    client: str
    model: str
    """Empty: of a call that may reach several."""
    reason: str

    def is_of(self, model: str) -> bool:
        """Whether the decision allowed a call of this model."""
        return self.reason == "allowed" and self.model in ("", model)


class Row(NamedTuple):
    """What is kept of a line that a model wrote."""

    line: Line
    caller: Caller
    inputs: str | None
    input_hash: bytes | None

    def values(self) -> tuple[object, ...]:
        """In the order of `_COLUMNS`."""
        line, caller = self.line, self.caller
        return (
            *(line.model, line.id, line.decision_id, line.row, line.when, line.version, line.variant, line.mirrored),
            *(caller.issuer, caller.subject, caller.client),
            *(self.inputs, self.input_hash, bytes(line.outputs).decode()),
            *(line.milliseconds, line.bytes, line.host),
        )


class Deletion(NamedTuple):
    """What an owner deleted: of a time, or of one decision."""

    id: UUID
    model: str
    since: datetime
    until: datetime
    decision_id: UUID | None = None


_COLUMNS: LiteralString = """
model, id, decision_id, row, at, version, variant, mirrored, issuer, subject, client, inputs, input_hash, outputs,
    milliseconds, bytes, host
"""
_INSERT: LiteralString = f"""
INSERT INTO predictions ({_COLUMNS})
SELECT {_COLUMNS.replace("inputs,", "inputs::jsonb,").replace("outputs,", "outputs::jsonb,")}
FROM unnest(%b::text[], %b::uuid[], %b::uuid[], %b::int[], %b::timestamptz[], %b::text[], %b::text[], %b::bool[],
    %b::text[], %b::text[], %b::text[], %b::text[], %b::bytea[], %b::text[], %b::float8[], %b::bigint[], %b::text[]
) AS incoming ({_COLUMNS})
WHERE NOT EXISTS (
    SELECT FROM prediction_deletions AS deleted
    WHERE deleted.model = incoming.model AND incoming.at >= deleted.since AND incoming.at < deleted.until
        AND (deleted.decision_id IS NULL OR deleted.decision_id = incoming.decision_id))
ON CONFLICT DO NOTHING
"""  # noqa: S608 - constants
_CALLERS: LiteralString = """
SELECT decision_id, issuer, subject, client, model, reason FROM usage_events WHERE decision_id = ANY(%s)
"""
_OF_DELETION: LiteralString = """
model = %(model)s AND at >= %(since)s AND at < %(until)s
    AND (%(decision_id)s::uuid IS NULL OR decision_id = %(decision_id)s)
"""
# Ids are in the order of time: the primary key finds the oldest.
_FORGET: LiteralString = """
DELETE FROM predictions WHERE model = %(model)s AND id IN (
    SELECT id FROM predictions WHERE model = %(model)s AND id < %(before)s ORDER BY id LIMIT %(step)s)
"""
_DELETE: LiteralString = f"""
DELETE FROM predictions WHERE model = %(model)s AND id IN (
    SELECT id FROM predictions WHERE {_OF_DELETION} AND id >= %(first_id)s AND id < %(last_id)s
    ORDER BY id LIMIT %(step)s)
"""  # noqa: S608 - constants
_BEGIN: LiteralString = """
INSERT INTO prediction_deletions (id, model, since, until, decision_id)
VALUES (%(id)s, %(model)s, %(since)s, least(%(until)s, clock_timestamp()), %(decision_id)s) RETURNING until
"""
_UNFINISHED: LiteralString = """
SELECT id, model, since, until, decision_id FROM prediction_deletions WHERE NOT done ORDER BY until
"""
# Of an index, without a look at every row.
_MODELS: LiteralString = """
WITH RECURSIVE found (model) AS (
    SELECT min(model) FROM predictions
    UNION ALL SELECT (SELECT min(model) FROM predictions WHERE model > found.model) FROM found WHERE model IS NOT NULL
) SELECT model FROM found WHERE model IS NOT NULL UNION SELECT model FROM prediction_deletions
"""


async def callers(connection: Connection, decisions: Collection[UUID]) -> Mapping[UUID, Caller]:
    """Of those that the ledger has."""
    cursor = await connection.execute(_CALLERS, (list(decisions),))
    return {row[0]: Caller(*row[1:]) for row in await cursor.fetchall()}


async def write(connection: Connection, rows: Sequence[Row]) -> tuple[int, int]:
    """How many are new, and how many Postgres refused for what is in them. Committed when this returns; repeating it
    changes nothing."""
    try:
        return await _insert(connection, rows), 0
    except Exception as refused:
        if not is_about_a_row(refused):
            raise
    if len(rows) == 1:
        return 0, 1
    half = len(rows) // 2
    first, second = await write(connection, rows[:half]), await write(connection, rows[half:])
    return first[0] + second[0], first[1] + second[1]


async def _insert(connection: Connection, rows: Sequence[Row]) -> int:
    columns = [list(column) for column in zip(*[row.values() for row in rows], strict=True)]
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock_shared(%s)", (_LOCK,))
        return (await connection.execute(_INSERT, columns)).rowcount


async def models(connection: Connection) -> list[str]:
    """Those that have predictions, or had."""
    return [model for (model,) in await (await connection.execute(_MODELS)).fetchall()]


async def forget_some(connection: Connection, model: str, before: datetime) -> int:
    """How many older ones were deleted; fewer than STEP: none is left."""
    values = {"model": model, "before": id_at(before), "step": STEP}
    return (await connection.execute(_FORGET, values)).rowcount


async def forget_deletions(connection: Connection, model: str, before: datetime) -> None:
    """Of what would not be kept any more in any case."""
    query = "DELETE FROM prediction_deletions WHERE done AND model = %s AND until < %s"
    await connection.execute(query, (model, before))


async def unfinished(connection: Connection) -> list[Deletion]:
    """Deletions that somebody began, and perhaps did not finish."""
    return [Deletion(*row) for row in await (await connection.execute(_UNFINISHED)).fetchall()]


async def begin(connection: Connection, deletion: Deletion) -> Deletion:
    """In a transaction; from its commit on nothing of it is written any more. It ends now, not in the future."""
    await connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
    cursor = await connection.execute(_BEGIN, deletion._asdict())
    ((until,),) = await cursor.fetchall()
    return deletion._replace(until=until)


async def delete_some(connection: Connection, deletion: Deletion) -> int:
    """How many of its rows were deleted; fewer than STEP: none is left."""
    ends = {"first_id": id_at(deletion.since), "last_id": id_at(deletion.until, after=True), "step": STEP}
    return (await connection.execute(_DELETE, {**deletion._asdict(), **ends})).rowcount


async def mark_done(connection: Connection, deletion: Deletion) -> None:
    """No row of it is left."""
    await connection.execute("UPDATE prediction_deletions SET done = true WHERE id = %s", (deletion.id,))


def id_at(at: datetime, *, after: bool = False) -> UUID:
    """The first id of this millisecond; `after`: of the one after it."""
    milliseconds = int(at.timestamp() * 1000) + after
    return UUID(int=min(max(0, milliseconds), (1 << 48) - 1) << 80)
