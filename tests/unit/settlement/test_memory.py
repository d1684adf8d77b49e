"""The behaviour suite over the settlement in memory, and GCRA against its definition."""

from __future__ import annotations

import math
from collections import Counter
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext_authz.settlement.local import MemorySettlement
from ext_authz.settlement.model import Outcome
from tests.fakes import FakeClock
from tests.unit.settlement.calendar_periods import begun
from tests.unit.settlement.suite import SettlementSuite
from tests.unit.settlement.world import (
    DAY,
    HOUR,
    LEDGER_MAX,
    MINUTE,
    MONTH,
    WEEK,
    YEAR,
    PostgresRevocations,
    calendar,
    gcra,
    settle,
    sliding,
    window,
)


class MemoryWorld:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.postgres = PostgresRevocations()
        self.settlement = MemorySettlement(self.clock, ledger_max=LEDGER_MAX, revoked_in_postgres=self.postgres)

    async def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)

    async def now_ms(self) -> int:
        return round(self.clock.now() * 1000)

    async def revoke(self, entry_id: str, value: int = 1) -> None:
        self.settlement.revocations[entry_id] = math.inf if entry_id[:1] in "ts" else value

    async def set_complete(self, *, complete: bool) -> None:
        self.settlement.complete = complete

    async def fill_ledger(self, events: int) -> None:
        self.settlement.ledger[:] = [(b"{}", Outcome.OK)] * events

    async def ledger(self) -> list[tuple[bytes, int]]:
        return self.settlement.ledger


@pytest.fixture
def world() -> MemoryWorld:
    return MemoryWorld()


class TestMemorySettlement(SettlementSuite):
    pass


@given(
    limit=st.sampled_from([1, 2, 3, 4, 5, 6, 10, 12, 60]),
    burst=st.integers(1, 8),
    calls=st.lists(st.tuples(st.integers(0, 70_000), st.integers(1, 9)), max_size=60),
)
async def test_gcra_is_a_token_bucket(limit: int, burst: int, calls: list[tuple[int, int]]) -> None:
    world, interval_ms = MemoryWorld(), MINUTE // limit
    tokens, passed, now = float(burst), [], 0
    for gap_ms, cost in calls:
        now += gap_ms
        await world.advance(gap_ms / 1000)
        tokens = min(burst, tokens + gap_ms / interval_ms)
        answer = await settle(world, gcra(limit, burst, cost=cost))
        assert (answer.outcome is Outcome.OK) == (tokens + 1e-6 >= cost)
        if answer.outcome is Outcome.OK:
            tokens -= cost
            passed.append((now, cost))
        assert answer.remaining == (int(tokens + 1e-6),)

    for start, _ in passed:
        assert sum(cost for at, cost in passed if start <= at < start + MINUTE) <= limit + burst


@given(
    limit=st.integers(1, 80),
    calls=st.lists(st.tuples(st.integers(0, 8000), st.integers(1, 9), st.integers(1, 6)), max_size=60),
    start=st.integers(0, MINUTE),
)
async def test_a_sliding_window_never_holds_more_than_the_limit(
    limit: int, calls: list[tuple[int, int, int]], start: int
) -> None:
    world, now = MemoryWorld(), 0
    passed: list[tuple[int, int]] = []
    await world.advance(start / 1000)
    for gap_ms, cost, times in calls:
        now += gap_ms
        await world.advance(gap_ms / 1000)
        for _ in range(times):
            inside = sum(took for at, took in passed if at > now - MINUTE)
            counted_too_long = sum(took for at, took in passed if now - MINUTE * 33 // 32 < at <= now - MINUTE)
            outcome = (await settle(world, sliding(limit, cost=cost))).outcome
            if outcome is Outcome.OK:
                assert inside + cost <= limit
                passed.append((now, cost))
            else:
                assert inside + counted_too_long + cost > limit


@given(gaps=st.lists(st.integers(2000, 30_000), max_size=60), limit=st.integers(1, 30))
async def test_a_sliding_window_is_exact_for_hits_more_than_a_slice_apart(gaps: list[int], limit: int) -> None:
    world, now = MemoryWorld(), 0
    passed: list[int] = []
    for gap_ms in gaps:
        now += gap_ms
        await world.advance(gap_ms / 1000)
        inside = sum(at > now - MINUTE for at in passed)
        answer = await settle(world, sliding(limit))
        assert answer.outcome is (Outcome.OK if inside < limit else Outcome.LIMITED)
        if answer.outcome is Outcome.OK:
            passed.append(now)
        else:
            assert answer.retry_after_ms == passed[-limit] + MINUTE - now


@given(
    limit=st.integers(1, 6),
    period=st.sampled_from([HOUR, DAY, WEEK, MONTH, YEAR]),
    gaps=st.lists(st.floats(0, 2), max_size=60),
)
async def test_no_period_of_the_calendar_holds_more_than_the_limit(limit: int, period: int, gaps: list[float]) -> None:
    world, inside = MemoryWorld(), Counter[datetime]()
    for gap in gaps:
        await world.advance(gap * period / 3000)
        answer = await settle(world, calendar(limit, period))
        current = begun(datetime.fromtimestamp(await world.now_ms() / 1000, UTC), period)
        assert answer.outcome is (Outcome.OK if inside[current] < limit else Outcome.LIMITED)
        inside[current] += answer.outcome is Outcome.OK


@given(calls=st.lists(st.integers(0, 1000), max_size=80), limit=st.integers(1, 5))
async def test_a_fixed_window_holds_no_more_than_the_limit(calls: list[int], limit: int) -> None:
    world, opened, inside, now = MemoryWorld(), -MINUTE, 0, 0
    for gap in calls:
        now += gap * 100
        await world.advance(gap / 10)
        if now >= opened + MINUTE:
            opened, inside = now, 0
        outcome = (await settle(world, window(limit))).outcome
        assert outcome is (Outcome.OK if inside < limit else Outcome.LIMITED)
        inside += outcome is Outcome.OK
