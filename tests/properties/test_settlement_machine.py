"""Redis' script, the memory settlement and a model of ten lines each, held to one another whatever happens in between.

What hypothesis shrinks a difference to becomes a case of `tests/unit/settlement/suite.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from ext_authz.db import redis_keys
from ext_authz.policy.model import Algorithm
from ext_authz.settlement.local import LocalLimits
from ext_authz.settlement.model import Outcome, QuotaRequest, SettleRequest, SettleResult
from tests.e2e.settlement.redis_world import RedisWorld
from tests.unit.settlement.test_memory import MemoryWorld
from tests.unit.settlement.world import ISSUED_AT, dry_run, gcra, sliding, window

T = TypeVar("T")

TAKES = [
    *(window(2, key="two"), window(3, key="three", cost=2), window(5, key="hour", window_ms=3_600_000)),
    *(gcra(6, burst=2, key="six"), gcra(10, burst=1, key="ten"), gcra(6, burst=3, key="dear", cost=2)),
    # Slices of one second, the shortest tick: what is taken in one tick is forgotten in one.
    *(sliding(3, key="last", window_ms=32_000), sliding(4, key="recent", window_ms=32_000, cost=2)),
    *(
        dry_run(window(1, key="dry")),
        dry_run(sliding(1, key="dry last", window_ms=32_000)),
        window(0, key="nothing"),
        window(4, key="free", cost=0),
    ),
]
TOKENS = [
    (f"t:kc:{token}", f"s:kc:{session}", f"u:kc:{user}", "c:kc:app", "i:kc:")
    for token, session, user in (("1", "a", "alice"), ("2", "a", "alice"), ("3", "b", "bob"))
]
IDS = sorted({entry for ids in TOKENS for entry in ids})


class Model:
    """What the settlement promises, without a thought for speed. Times in ms."""

    def __init__(self) -> None:
        self.now = 10**12
        self.held: dict[str, int] = {}
        self.in_postgres: set[str] = set()
        self.complete = True
        self.windows: dict[str, tuple[int, int]] = {}
        self.arrivals: dict[str, int] = {}
        self.hits: dict[str, list[tuple[int, int]]] = {}
        self.events = 0

    def settle(self, ask: SettleRequest) -> tuple[Outcome, tuple[int, ...]]:
        """The outcome, and what remains of each limit."""
        self.events += 1
        if self._revoked(ask):
            return Outcome.REVOKED, ()
        fits = [self._left(take) >= take.cost for take in ask.quota_requests]
        refused = any(not fit and not take.dry_run for fit, take in zip(fits, ask.quota_requests, strict=True))
        for take, fit in zip(ask.quota_requests, fits, strict=True):
            if fit and not refused and take.cost:
                self._take(take)
        over = [
            -1 if not (fit or refused) else self._left(take) for fit, take in zip(fits, ask.quota_requests, strict=True)
        ]
        return Outcome.LIMITED if refused else Outcome.OK, tuple(over)

    def _revoked(self, ask: SettleRequest) -> bool:
        if not self.complete:
            return not self.in_postgres.isdisjoint(ask.revocation)
        token, session, *others = (self.held.get(entry) for entry in ask.revocation)
        return token is not None or session is not None or any(at is not None and at >= ask.issued_at for at in others)

    def _left(self, take: QuotaRequest) -> int:
        if take.algorithm == Algorithm.GCRA:
            interval = take.window_ms // take.limit
            return (self.now + take.burst * interval - max(self.now, self.arrivals.get(take.key, 0))) // interval
        if take.algorithm == Algorithm.SLIDING_WINDOW:
            hits = self.hits.get(take.key, [])
            return take.limit - sum(cost for at, cost in hits if at + take.window_ms > self.now)
        end, used = self.windows.get(take.key, (0, 0))
        return take.limit - (used if end > self.now else 0)

    def _take(self, take: QuotaRequest) -> None:
        if take.algorithm == Algorithm.GCRA:
            after = max(self.now, self.arrivals.get(take.key, 0)) + take.cost * take.window_ms // take.limit
            self.arrivals[take.key] = after
        elif take.algorithm == Algorithm.SLIDING_WINDOW:
            self.hits.setdefault(take.key, []).append((self.now, take.cost))
        else:
            end, used = self.windows.get(take.key, (0, 0))
            still = end > self.now
            self.windows[take.key] = (end if still else self.now + take.window_ms, take.cost + (used if still else 0))

    def forget(self) -> None:
        """Redis lost all that it had."""
        self.held, self.windows, self.arrivals, self.hits, self.complete, self.events = {}, {}, {}, {}, False, 0


class SettlementMachine(RuleBasedStateMachine):
    """Each step is done to all three."""

    redis_url = ""

    @initialize()
    def begin(self) -> None:
        self.runner = asyncio.Runner()
        self.model, self.memory = Model(), MemoryWorld()
        self.redis = self.runner.run(self._connected())

    async def _connected(self) -> RedisWorld:
        world = RedisWorld(self.redis_url)
        await world.client.flushall()
        return await world.__aenter__()

    def teardown(self) -> None:
        if hasattr(self, "redis"):
            self._do(self.redis.__aexit__())
            self.runner.close()

    def _do(self, step: Awaitable[T]) -> T:
        async def run() -> T:
            return await step

        return self.runner.run(run())

    @rule(
        ids=st.sampled_from(TOKENS),
        age=st.sampled_from([-10, 0, 10]),
        quota_requests=st.lists(st.sampled_from(TAKES), max_size=3, unique_by=lambda take: take.key),
    )
    def settle(self, ids: tuple[str, str, str, str, str], age: int, quota_requests: list[QuotaRequest]) -> None:
        ask = SettleRequest(ids, ISSUED_AT + age, tuple(quota_requests), b"{}")
        expected = self.model.settle(ask)
        for world in (self.redis, self.memory):
            assert _seen(self._do(world.settlement.settle(ask))) == expected, type(world).__name__

    @rule(entry=st.sampled_from(IDS), at=st.sampled_from([ISSUED_AT - 5, ISSUED_AT, ISSUED_AT + 5]))
    def revoke(self, entry: str, at: int) -> None:
        self.model.held[entry] = at
        for world in (self.redis, self.memory):
            self._do(world.revoke(entry, at))

    @rule(entry=st.sampled_from(IDS))
    def lift(self, entry: str) -> None:
        self.model.held.pop(entry, None)
        self.memory.settlement.revocations.pop(entry, None)
        self._do(self.redis.client.set(redis_keys.revocation(entry), f"-2:{ISSUED_AT + 20}"))

    @rule(entry=st.sampled_from(IDS))
    def revoke_in_postgres(self, entry: str) -> None:
        for revoked in (self.model.in_postgres, self.memory.postgres.revoked, self.redis.postgres.revoked):
            revoked.add(entry)

    @rule()
    def flush(self) -> None:
        self.model.forget()
        self.memory.settlement.revocations.clear()
        self.memory.settlement.ledger.clear()
        self.memory.settlement._limits = LocalLimits(self.memory.clock)
        self._do(self.memory.set_complete(complete=False))
        self._do(self.redis.client.flushall())

    @rule(complete=st.booleans())
    def fail_over_or_rebuild(self, complete: bool) -> None:  # noqa: FBT001 - hypothesis fills it in
        self.model.complete = complete
        for world in (self.redis, self.memory):
            self._do(world.set_complete(complete=complete))

    @rule(seconds=st.sampled_from([1, 5, 6, 10, 59, 60, 3600]))
    def tick(self, seconds: int) -> None:
        self.model.now += seconds * 1000
        for world in (self.redis, self.memory):
            self._do(world.advance(seconds))

    @invariant()
    def every_decision_is_written_down_once(self) -> None:
        if hasattr(self, "redis"):
            assert len(self.memory.settlement.ledger) == self.model.events
            assert self._do(self.redis.client.xlen(redis_keys.events())) == self.model.events


def _seen(answer: SettleResult) -> tuple[Outcome, tuple[int, ...]]:
    return answer.outcome, answer.remaining


def test_all_settlements_agree_whatever_happens(redis_url: str) -> None:
    SettlementMachine.redis_url = redis_url
    run_state_machine_as_test(
        SettlementMachine,
        settings=settings(max_examples=60, stateful_step_count=25, suppress_health_check=list(HealthCheck)),
    )
