"""The behaviour suite over Redis, through the script and the batches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from time import monotonic

import pytest

from ext_authz import redis_keys
from ext_authz.settlement.batch import Batch, read_reply
from tests.e2e.settlement.redis_world import RedisWorld
from tests.unit.settlement.suite import SettlementSuite
from tests.unit.settlement.world import ask, gcra, settle, window


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


async def test_what_redis_gets_to_too_late_is_left_undone(world: RedisWorld) -> None:
    link, loop = world.settlement._shards[0]._link, asyncio.get_running_loop()
    assert link is not None
    for late_by in (1.0, -1.0):
        batch, reply = Batch(1), loop.create_future()
        batch.asks, batch.futures = [ask(window(5))], [loop.create_future()]
        link.settle(batch.encode(), monotonic() - late_by, 1000, reply.set_result)
        undone = read_reply(await reply)[1] < 0
        assert undone == (late_by > 0)
        assert len(await world.ledger()) == (0 if undone else 1)
