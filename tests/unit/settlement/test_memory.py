"""The behaviour suite over the settlement in memory, and GCRA against its definition."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext_authz.settlement.memory import MemorySettlement
from ext_authz.settlement.model import Outcome
from tests.fakes import FakeClock
from tests.unit.settlement.suite import SettlementSuite
from tests.unit.settlement.world import LEDGER_MAX, MINUTE, PostgresRevocations, gcra, settle, window


class MemoryWorld:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.postgres = PostgresRevocations()
        self.settlement = MemorySettlement(self.clock, ledger_max=LEDGER_MAX, revoked_in_postgres=self.postgres)

    async def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)

    async def revoke(self, entry_id: str, value: int = 1) -> None:
        self.settlement.revocations[entry_id] = value

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
