"""The settlement over Redis: what `check.py` awaits."""

from __future__ import annotations

from msgspec.structs import replace

from ext_authz.errors import Unavailable
from ext_authz.observability.metrics import DEPENDENCY_UP
from ext_authz.settlement.fallback import Fallback, RevokedInPostgres
from ext_authz.settlement.model import Answer, Ask, Outcome, Settlement
from ext_authz.settlement.shard import Shard

_NO_IDS = ("", "", "", "", "")


class RedisSettlement(Settlement):
    """Revocation, limits and ledger in one call to Redis, shared by the checks that run at the same time.

    Fails closed: a Redis that is away, slow, full or free to drop keys ends in Unavailable, within `timeout`.
    """

    def __init__(self, url: str, *, timeout: float, ledger_max: int, revoked_in_postgres: RevokedInPostgres) -> None:
        self._shard = Shard(url, 0, timeout, ledger_max, self._report)
        self._queue = self._shard.queue
        self._fallback = Fallback(revoked_in_postgres)

    async def start(self) -> None:
        """Connect. A Redis that is not there yet is no error: `up` tells, and attempts go on."""
        await self._shard.start()

    async def stop(self) -> None:
        """Flush what is queued, one timeout long at most."""
        await self._fallback.stop()
        await self._shard.stop()
        self._report()

    def up(self) -> bool:
        return not self._queue.down

    async def settle(self, ask: Ask) -> Answer:
        answer = await self._queue.put(ask)
        if answer.outcome is Outcome.INCOMPLETE:
            return await self._settle_by_postgres(ask)
        if answer.outcome is Outcome.LEDGER_FULL:
            raise Unavailable("ledger", "the ledger stream reached its bound: is the usage worker running?")
        return answer

    def record(self, event: bytes) -> None:
        self._queue.record(event, Outcome.OK)

    async def _settle_by_postgres(self, ask: Ask) -> Answer:
        if await self._fallback.is_revoked(ask):
            self._queue.record(ask.event, Outcome.REVOKED)
            return Answer(Outcome.REVOKED)
        return await self.settle(replace(ask, revocation=_NO_IDS))

    def _report(self) -> None:
        DEPENDENCY_UP.labels("redis").set(self.up())
