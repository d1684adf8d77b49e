"""The settlement over Redis: what `check.py` awaits."""

from __future__ import annotations

import asyncio
from zlib import crc32

from msgspec.structs import replace

from ext_authz.clock import Clock
from ext_authz.errors import Unavailable
from ext_authz.observability.metrics import DEPENDENCY_UP
from ext_authz.policy.model import OnFailure
from ext_authz.settlement.cluster import home_of, settle_across
from ext_authz.settlement.failure_mode import FailureMode, Fallback, Known, mark
from ext_authz.settlement.model import NO_IDS, Outcome, RevokedInPostgres, Settlement, SettleRequest, SettleResult
from ext_authz.settlement.pipeline import Queue
from ext_authz.settlement.room import FULL_OF_EVENTS
from ext_authz.settlement.shard import Shard

_ANYBODY = SettleRequest(("t:~:", "", "", "", ""), 0, (), b"")
"""Asks about a token that does not exist; takes nothing, writes nothing."""


class RedisSettlement(Settlement):
    """Revocation, limits and ledger in one call to Redis, shared by the checks that run at the same time.

    Fails closed: a Redis that is away, slow, full or free to drop keys ends in Unavailable, within `timeout`, where the
    failure policy of the check does not let it go on without (`failure_mode.py`).
    More `shards` than one spread users and limits over the nodes of a Redis Cluster, at the price of a second call for
    checks whose limits live in several of them.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float,
        ledger_max: int,
        revoked_in_postgres: RevokedInPostgres,
        known: Known,
        clock: Clock,
        shards: int = 1,
    ) -> None:
        self._shards = [Shard(url, number, timeout, ledger_max, self._report) for number in range(shards)]
        self._queues = [shard.queue for shard in self._shards]
        self._fallback = Fallback(revoked_in_postgres)
        self._known = known
        self._failure_mode = FailureMode(clock, self._fallback, known, self.seen_at)

    async def start(self) -> None:
        """Connect. A Redis that is not there yet is no error: `up` is false, and attempts go on."""
        await asyncio.gather(*(shard.start() for shard in self._shards))

    async def stop(self) -> None:
        """Flush what is queued, one timeout long at most."""
        await self._fallback.stop()
        await asyncio.gather(*(shard.stop() for shard in self._shards))
        self._report()

    def up(self) -> bool:
        return not any(queue.down for queue in self._queues)

    def cause(self) -> str:
        """Why it is not up; empty when it is."""
        return next((queue.down for queue in self._queues if queue.down), "")

    def ledger_cause(self) -> str:
        """Why no decision can be written down; empty when it can, and while Redis is away."""
        return next((shard.room.full for shard in self._shards if shard.room.full), "") if self.up() else ""

    async def holds_all(self) -> bool:
        """Whether Redis alone can say of every token whether it is revoked: then no check needs Postgres."""
        try:
            results = await asyncio.gather(*(queue.put(_ANYBODY) for queue in self._queues))
        except Unavailable:
            return False
        return all(result.outcome is Outcome.OK for result in results)

    def seen_at(self) -> float:
        """Monotonic time at which all of Redis was last known to answer."""
        return min(shard.seen_at for shard in self._shards)

    async def settle(self, request: SettleRequest) -> SettleResult:
        try:
            if len(self._queues) == 1:
                return await self._settle_at(self._queues[0], request)
            return await settle_across(self._queues, self._settle_at, request)
        except Unavailable as outage:
            if outage.dependency != "redis" or request.failure.redis is OnFailure.DENY:
                raise
            return await self._settle_without_redis(request, outage)

    def record(self, event: bytes) -> None:
        self._queues[crc32(event) % len(self._queues)].record(event, Outcome.OK)

    async def _settle_at(self, queue: Queue, request: SettleRequest) -> SettleResult:
        result = await queue.put(request)
        if result.outcome is Outcome.OK:
            return result
        if result.revoked_by:
            self._known.saw_revoked(request.revocation, result.revoked_by)
        if result.outcome is Outcome.INCOMPLETE:
            return await self._settle_by_postgres(queue, request)
        if result.outcome is Outcome.LEDGER_FULL:
            raise Unavailable("ledger", self._why_full(queue))
        return result

    def _why_full(self, queue: Queue) -> str:
        return next((shard.room.why_full for shard in self._shards if shard.queue is queue), FULL_OF_EVENTS)

    async def _settle_by_postgres(self, queue: Queue, request: SettleRequest) -> SettleResult:
        kind, without = await self._failure_mode.revoked_by(request)
        result = SettleResult(Outcome.REVOKED if kind else Outcome.OK, degraded=without, revoked_by=kind)
        event = mark(request, result)
        if kind:
            queue.record(event, Outcome.REVOKED)
            return result
        result = await self._settle_at(queue, replace(request, revocation=NO_IDS, event=event))
        return replace(result, degraded=without) if without else result

    async def _settle_without_redis(self, request: SettleRequest, outage: Unavailable) -> SettleResult:
        """The event waits here for Redis; where there is no room for it, only `allow` lets anybody pass unrecorded."""
        queue = self._queues[home_of(request, len(self._queues))]
        if not queue.has_room and request.failure.redis is not OnFailure.ALLOW:
            raise Unavailable("ledger", "too many decisions wait for redis")
        result = await self._failure_mode.settle(request, outage)
        queue.record_degraded(mark(request, result), result.recorded)
        return result

    def _report(self) -> None:
        DEPENDENCY_UP.labels("redis").set(self.up())
