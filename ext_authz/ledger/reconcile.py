"""What does not add up between the ledger and Envoy's access log: decisions without an outcome, and outcomes without a
decision that allowed the call.

The first are lost entries of the access log, or calls that go on: they are never billed and never left out. The second
should not exist: somebody passed the authorizer by, or an event was lost.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from typing import LiteralString, NamedTuple

from pydantic import SecretStr

from ext_authz.clock import Clock
from ext_authz.db.backoff import Backoff, pause
from ext_authz.db.postgres import Connection
from ext_authz.db.tables import connected
from ext_authz.errors import Unavailable
from ext_authz.ledger.metrics import LEDGER_UNDECIDED, LEDGER_UNSETTLED
from ext_authz.observability.once import OncePerCause

log = logging.getLogger(__name__)

READS = {"usage_events": ("SELECT",), "call_outcomes": ("SELECT",)}
GRACE = timedelta(minutes=15)
"""How long a decision waits for its outcome: a call may last ten minutes, if its route does not say otherwise."""
WINDOW = timedelta(minutes=10)
"""What the metrics are about: the decisions and outcomes of so long a time, until `GRACE` ago."""
EVERY = 60.0
"""Seconds between two measurements."""

# Both tables are in the order of time, and found by blocks. An outcome may be received before its decision is.
_UNSETTLED: LiteralString = """
SELECT 'unsettled' AS kind, occurred_at AS at, decision_id::text AS decision_id, client, route, model,
    '' AS answered, '' AS upstream
FROM usage_events
WHERE occurred_at >= %(since)s AND occurred_at < %(until)s
    AND usage_outcome(reason, path, NULL, NULL, '', NULL) = 'unsettled'
    AND NOT EXISTS (SELECT FROM call_outcomes WHERE call_outcomes.decision_id = usage_events.decision_id)
"""
_UNDECIDED: LiteralString = """
SELECT CASE WHEN reason IS NULL THEN 'no decision' ELSE 'refused' END AS kind, call_outcomes.received_at AS at,
    decision_id::text, coalesce(client, ''), coalesce(route, ''), coalesce(model, ''), answered, upstream
FROM call_outcomes LEFT JOIN usage_events USING (decision_id)
WHERE call_outcomes.received_at >= %(since)s AND call_outcomes.received_at < %(until)s
    AND (reason IS NULL OR reason <> 'allowed')
"""
_LISTED: LiteralString = f"({_UNSETTLED}) UNION ALL ({_UNDECIDED}) ORDER BY at, decision_id LIMIT %(limit)s"
_COUNTED: LiteralString = f"""
SELECT (SELECT count(*) FROM ({_UNSETTLED}) AS one), (SELECT count(*) FROM ({_UNDECIDED}) AS other)
"""  # noqa: S608 - constants


class Loose(NamedTuple):
    """A decision, or an outcome, without the other."""

    kind: str
    """`unsettled`, `no decision`, or `refused`: an outcome of a call that was not allowed."""
    at: datetime
    """When Redis took the decision, or Postgres the outcome."""
    decision_id: str
    client: str
    route: str
    model: str
    answered: str
    """Of the outcome."""
    upstream: str


async def loose(connection: Connection, since: datetime, until: datetime, limit: int) -> list[Loose]:
    """Those of a period, oldest first."""
    cursor = await connection.execute(_LISTED, {"since": since, "until": until, "limit": limit})
    return [Loose(*row) for row in await cursor.fetchall()]


async def count(connection: Connection, since: datetime, until: datetime) -> tuple[int, int]:
    """Decisions without an outcome, and outcomes without a decision that allowed the call."""
    cursor = await connection.execute(_COUNTED, {"since": since, "until": until})
    ((unsettled, undecided),) = await cursor.fetchall()
    return unsettled, undecided


class Reconciler:
    """One task of the usage worker: keeps the metrics of both counts."""

    def __init__(self, url: SecretStr, clock: Clock) -> None:
        self._url = url
        self._clock = clock
        self._outage = OncePerCause(log, failing="ledger: not reconciled", working="ledger: reconciled again")

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`."""
        backoff = Backoff(stop)
        while not stop.is_set():
            try:
                async with connected(self._url, READS) as connection:
                    while not stop.is_set():
                        await self._measure(connection)
                        backoff.succeeded()
                        self._outage.worked()
                        await pause(stop, EVERY)
            except (Unavailable, OSError) as failure:
                self._outage.failed(str(failure))
            await backoff.pause()

    async def _measure(self, connection: Connection) -> None:
        until = datetime.fromtimestamp(self._clock.now(), UTC) - GRACE
        unsettled, undecided = await count(connection, until - WINDOW, until)
        LEDGER_UNSETTLED.set(unsettled)
        LEDGER_UNDECIDED.set(undecided)
