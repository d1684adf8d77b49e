"""The order in which a route names its limits does not matter. (One that it names twice is refused with the policy.)"""

from __future__ import annotations

import asyncio
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from ext_authz.settlement.local import MemorySettlement
from ext_authz.settlement.model import Outcome, QuotaRequest, SettleRequest
from tests.fakes import FakeClock
from tests.unit.settlement.world import gcra, sliding, window

TAKES = (
    *(window(3, key="window"), window(5, key="dear", cost=2), gcra(6, burst=2, key="bucket")),
    *(sliding(4, key="sliding"), window(1, key="one"), window(2, key="two")),
)


def _run(orders: list[tuple[QuotaRequest, ...]]) -> list[tuple[Outcome, dict[str, int]]]:
    """Outcome, and what remains of each limit, of checks that ask in these orders."""

    async def run() -> list[tuple[Outcome, dict[str, int]]]:
        settlement, seen = MemorySettlement(FakeClock()), []
        for quota_requests in orders:
            answer = await settlement.settle(SettleRequest(("", "", "", "", ""), 0, quota_requests, b"{}"))
            keys = [take.key for take in quota_requests]
            seen.append((answer.outcome, dict(zip(keys, answer.remaining, strict=True))))
        return seen

    return asyncio.run(run())


@given(st.lists(st.lists(st.sampled_from(TAKES), min_size=1, unique=True), max_size=8), st.randoms())
def test_the_order_of_limits_does_not_matter(checks: list[list[QuotaRequest]], random: Random) -> None:
    shuffled = [tuple(random.sample(quota_requests, len(quota_requests))) for quota_requests in checks]
    assert _run([*map(tuple, checks)]) == _run(shuffled)
