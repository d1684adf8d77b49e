"""Usage by hour and by day: adds what changed in the ledger to `usage_hourly` and `usage_daily`, each change once.

Triggers write every change into `usage_changes` in the transaction that makes it (db/migrations). The view
`usage_unsummed` has what each of these decisions counts for now, and what it counted for before. One statement, and so
one snapshot of all tables, takes changes away and adds that difference. A worker that is killed in between has changed
nothing.
"""

from __future__ import annotations

import asyncio
import logging
from typing import LiteralString

from pydantic import SecretStr

from ext_authz.db.backoff import Backoff, pause
from ext_authz.db.postgres import Connection
from ext_authz.db.tables import connected
from ext_authz.errors import Unavailable
from ext_authz.ledger import outbox
from ext_authz.ledger.metrics import LEDGER_UNPUBLISHED, LEDGER_UNPUBLISHED_AGE, LEDGER_UNSUMMED
from ext_authz.observability.once import OncePerCause

log = logging.getLogger(__name__)

NEEDS = {
    "usage_changes": ("SELECT", "DELETE"),
    "usage_unsummed": ("SELECT",),
    "usage_hourly": ("SELECT", "INSERT", "UPDATE"),
    "usage_daily": ("SELECT", "INSERT", "UPDATE"),
    "usage_outbox": ("SELECT",),
    "usage_publishing": ("SELECT",),
}
"""The privileges of who keeps the sums, and measures what waits for a broker."""
EVERY = 5.0
"""Seconds between two rounds: each writes the sums of the present hour again, whatever it adds."""
BATCH = 5000
"""Decisions of one transaction."""
MOST_COUNTED = 1_000_000
"""Changes that wait, beyond which they are not counted."""

# A transaction lock (any number), which a pooler lets pass. The statement after it sees all that its last holder did.
_ONLY_ONE: LiteralString = "SELECT pg_try_advisory_xact_lock(7263517097)"
_SERIES: LiteralString = "client, issuer, subject, model, model_version, route, outcome"
_SUMMED = ("calls", "requests", "units", "bytes_in", "bytes_out", "seconds")
_SUMS: LiteralString = ", ".join([f"sum({name}) AS {name}" for name in _SUMMED])
_CHANGES: LiteralString = " OR ".join([f"sum({name}) <> 0" for name in _SUMMED])
_ADD: LiteralString = "DO UPDATE SET " + ", ".join([f"{name} = held.{name} + excluded.{name}" for name in _SUMMED])


_FOLD: LiteralString = f"""
WITH batch AS MATERIALIZED (
    SELECT DISTINCT decision_id
    FROM (SELECT decision_id FROM usage_changes ORDER BY decision_id LIMIT %(most)s) AS first
), taken AS (
    DELETE FROM usage_changes USING batch WHERE usage_changes.decision_id = batch.decision_id
), difference AS MATERIALIZED (
    SELECT date_trunc('hour', at, 'UTC') AS hour, usage_series({_SERIES}) AS series, {_SERIES}, billed, {_SUMS}
    FROM usage_unsummed WHERE decision_id = ANY (ARRAY(SELECT decision_id FROM batch))
    GROUP BY 1, {_SERIES}, billed
    HAVING {_CHANGES}
), hourly AS (
    INSERT INTO usage_hourly AS held SELECT * FROM difference ON CONFLICT (hour, series) {_ADD}
), daily AS (
    INSERT INTO usage_daily AS held
    SELECT date_trunc('day', hour, 'UTC'), series, {_SERIES}, billed, {_SUMS}
    FROM difference GROUP BY 1, series, {_SERIES}, billed
    ON CONFLICT (day, series) {_ADD}
)
SELECT count(*) FROM batch
"""  # noqa: S608 - constants
_WAITING: LiteralString = "SELECT count(*) FROM (SELECT FROM usage_changes LIMIT %s) AS waiting"


async def fold(connection: Connection, most: int = BATCH) -> int | None:
    """Add the changes of so many decisions, oldest first; how many there were, or None: another worker does it."""
    async with connection.transaction():
        ((is_ours,),) = await (await connection.execute(_ONLY_ONE)).fetchall()
        if not is_ours:
            return None
        ((decisions,),) = await (await connection.execute(_FOLD, {"most": most})).fetchall()
        return int(decisions)


class Rollups:
    """One task of the usage worker; of several workers, one at a time does it."""

    def __init__(self, url: SecretStr) -> None:
        self._url = url
        self._outage = OncePerCause(log, failing="usage: not summed", working="usage: summed again")

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`."""
        backoff = Backoff(stop)
        while not stop.is_set():
            try:
                async with connected(self._url, NEEDS) as connection:
                    await self._follow(connection, stop, backoff)
            except (Unavailable, OSError) as failure:
                self._outage.failed(str(failure))
            await backoff.pause()

    async def _follow(self, connection: Connection, stop: asyncio.Event, backoff: Backoff) -> None:
        while not stop.is_set():
            decisions = await fold(connection)
            backoff.succeeded()
            self._outage.worked()
            if decisions is None or decisions < BATCH // 2:  # a batch has both changes of a decision, or one
                await self._measure(connection)
                await pause(stop, EVERY)

    async def _measure(self, connection: Connection) -> None:
        ((waiting,),) = await (await connection.execute(_WAITING, (MOST_COUNTED,))).fetchall()
        LEDGER_UNSUMMED.set(waiting)
        unpublished = await outbox.state(connection)
        LEDGER_UNPUBLISHED.set(unpublished.waiting)
        LEDGER_UNPUBLISHED_AGE.set(unpublished.age)
