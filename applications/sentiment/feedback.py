"""What people say of predictions, in a table of the application's own, for training.

One row per prediction and person: who says something else changes it.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import LiteralString

from msgspec import Struct

from applications.sentiment.door import Prediction
from ext_authz.db.postgres import Connection, Pool

MOST_OF_ONE = 5000
"""Rows of one person: whoever wants to say more wants to fill the disk, or to teach the model alone."""
COLUMNS = ("text", "label", "predicted", "version", "decision_id", "at")
"""Of an export; who said it is not among them."""

_TABLE: LiteralString = """
CREATE TABLE IF NOT EXISTS sentiment_feedback (
    issuer text NOT NULL,
    subject text NOT NULL,
    decision_id uuid NOT NULL,
    row smallint NOT NULL,
    at timestamptz NOT NULL DEFAULT now(),
    text text NOT NULL,
    predicted text NOT NULL,
    score real NOT NULL,
    version text NOT NULL,
    given text NOT NULL CHECK (given IN ('positive', 'neutral', 'negative')),
    PRIMARY KEY (issuer, subject, decision_id, row)
);
CREATE INDEX IF NOT EXISTS sentiment_feedback_at ON sentiment_feedback (at)
"""
_PUT: LiteralString = """
INSERT INTO sentiment_feedback (issuer, subject, decision_id, row, text, predicted, score, version, given)
SELECT %(issuer)s, %(subject)s, %(decision)s, %(row)s, %(text)s, %(predicted)s, %(score)s, %(version)s, %(given)s
WHERE (SELECT count(*) FROM sentiment_feedback WHERE issuer = %(issuer)s AND subject = %(subject)s) < %(most)s
ON CONFLICT (issuer, subject, decision_id, row) DO UPDATE SET given = excluded.given, at = now()
RETURNING true
"""
_EXPORT: LiteralString = """
SELECT text, given, predicted, version, decision_id::text, at FROM sentiment_feedback
WHERE at >= now() - make_interval(days => %s) ORDER BY decision_id, row, at
"""
_EXPIRE: LiteralString = """
DELETE FROM sentiment_feedback WHERE ctid IN (
    SELECT ctid FROM sentiment_feedback WHERE at < now() - make_interval(days => %s) LIMIT %s
)
"""
_AT_ONCE = 10_000
"""Rows of one statement, so that none takes long."""
_DELETE: LiteralString = "DELETE FROM sentiment_feedback WHERE issuer = %s AND subject = %s"


class Said(Struct, frozen=True):
    """One row of an export."""

    text: str
    label: str
    predicted: str
    version: str
    decision_id: str
    at: datetime


class Feedback:
    """Raises Unavailable where Postgres does not answer."""

    def __init__(self, pool: Pool, days: int) -> None:
        """`days`: since a person said it, or said something else of the same."""
        self._pool = pool
        self._days = days

    async def prepare(self) -> None:
        """Makes the table where it is not there."""
        await self._pool.run(lambda connection: _done(connection, _TABLE))

    async def put(self, issuer: str, subject: str, prediction: Prediction, row: int, given: str) -> bool:
        """False: this person has said as much as one may."""
        said = prediction.rows[row]
        values = {"issuer": issuer, "subject": subject, "decision": prediction.decision_id, "row": row, "given": given}
        # Postgres has no NUL in a text.
        values |= {"text": said.text.replace("\0", ""), "predicted": said.label, "score": said.score}
        values |= {"version": prediction.version, "most": MOST_OF_ONE}

        async def work(connection: Connection) -> bool:
            return await (await connection.execute(_PUT, values)).fetchone() is not None

        return await self._pool.run(work)

    async def everything(self) -> list[Said]:
        """The oldest decision first; nothing that is to be gone by now."""

        async def work(connection: Connection) -> list[Said]:
            return [Said(*row) for row in await (await connection.execute(_EXPORT, (self._days,))).fetchall()]

        return await self._pool.run(work)

    async def delete(self, issuer: str, subject: str) -> int:
        """How many rows of this person there were."""

        async def work(connection: Connection) -> int:
            return (await connection.execute(_DELETE, (issuer, subject))).rowcount

        return await self._pool.run(work)

    async def expire(self) -> int:
        """Deletes what was kept long enough; how many rows that were."""

        async def work(connection: Connection) -> int:
            return (await connection.execute(_EXPIRE, (self._days, _AT_ONCE))).rowcount

        deleted = 0
        while found := await self._pool.run(work):
            deleted += found
        return deleted


async def _done(connection: Connection, statement: LiteralString) -> None:
    await connection.execute(statement)


def as_csv(rows: Sequence[Said]) -> Iterator[str]:
    """Lines, as `prepare.py` of the training reads them."""
    for values in (COLUMNS, *((*_values(row), row.at.isoformat()) for row in rows)):
        line = io.StringIO(newline="")
        csv.writer(line).writerow(values)
        yield line.getvalue()


def _values(row: Said) -> tuple[str, ...]:
    return row.text, row.label, row.predicted, row.version, row.decision_id
