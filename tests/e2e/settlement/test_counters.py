"""What only Redis can show of the limits: its calendar, what it keeps and how long; and that memory counts alike."""

from __future__ import annotations

from collections.abc import AsyncIterator
from importlib.resources import files
from random import Random

import pytest
from redis import Redis

from ext_authz.db import redis_keys
from ext_authz.settlement.local import period_end
from ext_authz.settlement.model import QuotaRequest
from tests.e2e.settlement.redis_world import RedisWorld
from tests.unit.settlement.calendar_periods import EDGES, PERIODS, milliseconds
from tests.unit.settlement.test_memory import MemoryWorld
from tests.unit.settlement.world import DAY, HOUR, MONTH, WEEK, YEAR, calendar, gcra, settle, sliding, window

_PERIOD_ENDS = """
local floor, min = math.floor, math.min
%s
local ends = {}
for i = 1, #ARGV, 2 do
  ends[#ends + 1] = string.format("%%.0f", period_end(tonumber(ARGV[i]), tonumber(ARGV[i + 1])))
end
return ends
"""


@pytest.fixture
async def world(redis_url: str) -> AsyncIterator[RedisWorld]:
    async with RedisWorld(redis_url) as world:
        yield world


def test_the_script_knows_the_calendar(redis_url: str) -> None:
    random = Random(3)
    moments = [milliseconds(edge) for edge in EDGES] + [random.randrange(500 * YEAR) for _ in range(500)]
    questions = [(moment, period) for moment in moments for period in PERIODS]
    script = _PERIOD_ENDS % files("ext_authz.settlement").joinpath("calendar.lua").read_text()
    with Redis.from_url(redis_url) as client:
        found = client.eval(script, 0, *(number for question in questions for number in question))
    assert list(map(int, found)) == [period_end(*question) for question in questions]


@pytest.mark.parametrize(
    "take",
    [window(9), gcra(9, 9), sliding(9), *(calendar(9, period) for period in (HOUR, DAY, WEEK, MONTH, YEAR))],
    ids=["window", "gcra", "sliding", "hour", "day", "week", "month", "year"],
)
async def test_a_counter_is_gone_when_it_has_nothing_to_say(world: RedisWorld, take: QuotaRequest) -> None:
    answer = await settle(world, take)
    left = await world.client.pttl(redis_keys.counter(take.key))
    assert answer.reset_ms[0] - 1000 < left <= answer.reset_ms[0] + 1  # both are rounded


async def test_a_sliding_window_keeps_little_however_often_it_is_hit(world: RedisWorld) -> None:
    sizes = []
    for _ in range(200):
        await settle(world, sliding(1_000_000))
        sizes.append(await world.client.strlen(redis_keys.counter("sliding")))
        await world.advance(0.9)
    assert max(sizes) < 400
    assert sizes[-1] <= sizes[-100] + 10


# Sums of whole seconds come near no border of these: what time passes between two questions makes no difference.
LIMITS = (
    window(7, window_ms=20_500),
    sliding(7, window_ms=20_500),
    sliding(40, key="busy", window_ms=60_500),
    gcra(7, 3, window_ms=24_500),
    calendar(100, MONTH),
)


@pytest.mark.parametrize("seed", range(6))
async def test_memory_and_redis_count_alike(world: RedisWorld, seed: int) -> None:
    random, memory = Random(seed), MemoryWorld()
    for _ in range(60):
        seconds = random.choice((0, 0, 1, 1, 2, 7, 30))
        quota_requests = [
            QuotaRequest(
                each.key, each.algorithm, each.limit, each.window_ms, each.burst, random.choice((1, 1, 2)), dry_run
            )
            for each in random.sample(LIMITS, k=2)
            for dry_run in (random.random() < 0.2,)
        ]
        for each in (world, memory):
            await each.advance(seconds)
        found, expected = await settle(world, *quota_requests), await settle(memory, *quota_requests)
        assert (found.outcome, found.limited_by) == (expected.outcome, expected.limited_by)
        assert found.remaining == expected.remaining
