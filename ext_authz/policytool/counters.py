"""Phase 4 in memory, with what was used or revoked before the first request."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from ext_authz.clock import Clock
from ext_authz.errors import Unavailable
from ext_authz.policy.model import Algorithm, OnFailure
from ext_authz.revocation.entry import Kind
from ext_authz.settlement.degraded import Degraded
from ext_authz.settlement.fallback import Fallback
from ext_authz.settlement.memory import MemorySettlement
from ext_authz.settlement.model import NO_IDS, Outcome, QuotaRequest, SettleRequest, SettleResult

_SEPARATOR = "\x1f"


class Counters(MemorySettlement):
    """Settles as the door does, also while Redis or Postgres is away, with what its user says was before."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock, ledger_max=sys.maxsize)
        self.used: dict[str, int] = {}
        """By the name of a limit: what to take from it before the next request does. What was taken is removed."""
        self.full = ""
        """The limit, by its name, that the next request finds used up."""
        self.revoked: set[Kind] = set()
        """What of the next caller to revoke first."""
        self._clock = clock
        self._lost_at = 0.0
        self._degraded = Degraded(clock, Fallback(self._in_postgres), self, self.whole_at)

    def lose(self, dependency: str) -> None:
        """Redis or Postgres goes away."""
        self._lost_at = self._clock.monotonic()
        if dependency == "redis":
            self.down = dependency
        else:
            self.complete = False

    def regain(self, dependency: str) -> None:
        """It answers again."""
        if dependency == "redis":
            self.down = ""
        else:
            self.complete = True

    def whole_at(self) -> float:
        """Monotonic time at which everything was last known to answer."""
        return self._lost_at

    def saw_revoked(self, ids: tuple[str, str, str, str, str], by: Kind) -> None:
        """What is revoked stays revoked here: one memory stands for Redis, Postgres and the worker."""

    async def settle(self, ask: SettleRequest) -> SettleResult:
        if self.revoked:
            self._revoke(ask)
        if (self.used or self.full) and not self.down:
            await self._use(ask.quota_requests)
        try:
            return await super().settle(ask)
        except Unavailable as outage:
            return await self._settle_without(ask, outage)

    async def _settle_without(self, ask: SettleRequest, outage: Unavailable) -> SettleResult:
        """As `settlement/redis.py` goes on, by the same failure policy."""
        if outage.dependency == "redis":
            if ask.failure.redis is OnFailure.DENY:
                raise outage
            return await self._degraded.settle(ask, outage)
        kind, without = await self._degraded.revoked_by(ask)
        if kind:
            return SettleResult(Outcome.REVOKED, degraded=without, revoked_by=kind)
        return replace(await super().settle(replace(ask, revocation=NO_IDS)), degraded=without)

    async def _in_postgres(self, asks: Sequence[SettleRequest]) -> Sequence[Kind | None]:
        if not self.complete:
            raise Unavailable("postgres", "down, as the test says")
        return [self.revokes(ask.revocation, ask.issued_at) for ask in asks]

    def _revoke(self, ask: SettleRequest) -> None:
        ids = dict(zip(Kind, ask.revocation, strict=True))
        self.revocations |= {ids[kind]: ask.issued_at for kind in self.revoked if ids[kind]}
        self.revoked.clear()

    async def _use(self, quota_requests: Sequence[QuotaRequest]) -> None:
        for take in quota_requests:
            name = limit_name(take)
            costs = [1] * self.used.pop(name, 0) + [_whole(take)] * (name == self.full)
            for cost in costs:
                await super().settle(SettleRequest(NO_IDS, 0, (replace(take, cost=cost),), b""))
        self.full = ""


def _whole(take: QuotaRequest) -> int:
    """All that the limit gives at once."""
    return max(1, take.burst) if take.algorithm == Algorithm.GCRA else take.limit


def limit_name(take: QuotaRequest) -> str:
    """Which limit the counter belongs to."""
    return take.key.partition(_SEPARATOR)[0]


def key_values(take: QuotaRequest, parts: Sequence[str]) -> Mapping[str, str]:
    """What the counter counts by, in the order of the limit's key."""
    return dict(zip(parts, take.key.split(_SEPARATOR)[1:], strict=False))
