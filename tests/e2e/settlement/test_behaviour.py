"""The behaviour suite over Redis, through the script and the batches."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from ext_authz import redis_keys
from tests.e2e.settlement.redis_world import RedisWorld
from tests.unit.settlement.suite import SettlementSuite
from tests.unit.settlement.world import gcra, settle, window


@pytest.fixture
async def world(redis_url: str) -> AsyncIterator[RedisWorld]:
    async with RedisWorld(redis_url) as world:
        yield world


class TestRedisSettlement(SettlementSuite):
    pass


async def test_the_ledger_names_the_counter_that_refused(world: RedisWorld) -> None:
    takes = (window(9, key="wide"), window(1, key="narrow"), gcra(9, burst=9))
    for _ in range(2):
        await settle(world, *takes)
    entries = await world.client.xrange(redis_keys.events())
    assert [fields.get(b"l") for _, fields in entries] == [None, b"narrow"]
