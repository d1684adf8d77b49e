"""Publishes the ledger: sends what waits in the outbox, and takes it out when the broker has it.

Killed in between, it sends the same events again. Of several publishers one does it; two that both believe to hold the
lease send the same events as well. While the broker is away, rows wait in Postgres, and nothing else waits for them.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime

from ext_authz.clock import Clock
from ext_authz.db.backoff import Backoff, pause
from ext_authz.db.lease import Lease
from ext_authz.db.postgres import Connection, Pool
from ext_authz.db.tables import ensure_usable
from ext_authz.errors import Unavailable
from ext_authz.ledger import outbox
from ext_authz.ledger.decision_event import message
from ext_authz.ledger.kafka import Topic
from ext_authz.observability.once import OncePerCause

log = logging.getLogger(__name__)

LEASE = "publish decisions"
BATCH = 2000
"""Decisions of one round; those whose time to wait is over come on top."""
EVERY = 1.0
"""Seconds between two rounds where little waits."""


class Publisher:
    """One task. `source`: of the events."""

    def __init__(self, pool: Pool, topic: Topic, clock: Clock, source: str) -> None:
        self._pool = pool
        self._topic = topic
        self._clock = clock
        self._source = source
        self._lease = Lease(pool, LEASE)
        self._outage = OncePerCause(log, failing="ledger: not published", working="ledger: published again")

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`; survives every failure of Postgres and of the broker."""
        backoff = Backoff(stop)
        while not stop.is_set():
            try:
                await self._pool.run(self._prepare)
                await self._lease.run(self._publish, stop)
            except Unavailable as failure:
                self._outage.failed(str(failure))
                await backoff.pause()

    async def _prepare(self, connection: Connection) -> None:
        await ensure_usable(connection, outbox.NEEDS, outbox.begin)

    async def _publish(self, end: asyncio.Event) -> None:
        backoff = Backoff(end)
        while not end.is_set():
            try:
                published = await self._round(end)
            except Unavailable as failure:
                if not end.is_set():
                    self._outage.failed(str(failure))
                await backoff.pause()
                continue
            backoff.succeeded()
            self._outage.worked()
            if published < BATCH:
                await pause(end, EVERY)

    async def _round(self, end: asyncio.Event) -> int:
        """How many decisions were sent."""
        now = datetime.fromtimestamp(self._clock.now(), UTC)
        batch = await self._pool.run(lambda connection: outbox.take(connection, now, BATCH))
        if not batch.rows:
            return 0
        await self._topic.send([message(decision, self._source) for decision in batch.decisions], end)
        await self._pool.run(lambda connection: outbox.sent(connection, batch))
        log.debug("ledger: published", extra={"events": len(batch.decisions)})
        return len(batch.decisions)
