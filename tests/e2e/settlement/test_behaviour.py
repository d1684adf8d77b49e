"""The behaviour suite over Redis, through the script and the batches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from time import monotonic

import pytest

from ext_authz.db import redis_keys
from ext_authz.settlement.batch import Batch, read_reply
from ext_authz.settlement.cluster import _return
from ext_authz.settlement.model import Outcome, QuotaRequest
from tests.e2e.settlement.redis_world import RedisWorld
from tests.unit.settlement.suite import SettlementSuite
from tests.unit.settlement.world import ISSUED_AT, ask, calendar, gcra, left, settle, sliding, window


@pytest.fixture
async def world(redis_url: str) -> AsyncIterator[RedisWorld]:
    async with RedisWorld(redis_url) as world:
        yield world


class TestRedisSettlement(SettlementSuite):
    pass


async def test_the_ledger_names_the_counter_that_refused(world: RedisWorld) -> None:
    quota_requests = (window(9, key="wide"), window(1, key="narrow"), gcra(9, burst=9))
    for _ in range(2):
        await settle(world, *quota_requests)
    entries = await world.client.xrange(redis_keys.events())
    assert [fields.get(b"l") for _, fields in entries] == [None, b"narrow"]


async def test_what_redis_gets_to_too_late_is_left_undone(world: RedisWorld) -> None:
    link, loop = world.settlement._shards[0]._link, asyncio.get_running_loop()
    assert link is not None
    for late_by in (1.0, -1.0):
        batch, reply = Batch(1), loop.create_future()
        batch.requests, batch.futures = [ask(window(5))], [loop.create_future()]
        link.settle(batch.encode(0), monotonic() - late_by, 1000, reply.set_result)
        undone = read_reply(await reply)[1] < 0
        assert undone == (late_by > 0)
        assert len(await world.ledger()) == (0 if undone else 1)


@pytest.mark.parametrize(
    "take",
    [window(5, cost=2), gcra(5, burst=5, cost=2), sliding(5, cost=2), calendar(5, cost=2)],
    ids=["window", "gcra", "sliding", "calendar"],
)
async def test_what_no_longer_counts_is_not_given_back(world: RedisWorld, take: QuotaRequest) -> None:
    queue = world.settlement._queues[0]
    first = await settle(world, take)
    await world.advance(first.reset_ms[0] / 1000)  # by now all of it is back
    assert (await settle(world, take)).remaining == (3,)
    queue.give_back([_return(take, 0, first.at_ms)])
    assert await left(world, take) == (3,)

    again = await settle(world, take)
    queue.give_back([_return(take, again.at_ms, again.at_ms + again.reset_ms[0])])
    assert await left(world, take) == (3,)


async def test_a_counter_beyond_every_limit_stays_full_when_quota_is_returned(world: RedisWorld) -> None:
    take, now = gcra(5, burst=5), await world.now_ms()
    await world.client.set(redis_keys.counter(take.key), "9" * 20)
    world.settlement._queues[0].give_back([_return(take, now, now + 60_000)])
    await settle(world, window(5, key="other"))
    assert await left(world, take) == (0,)


@pytest.mark.parametrize("entry_id", ["t:kc:token", "u:kc:alice"])
async def test_what_was_lifted_is_in_force_no_more(world: RedisWorld, entry_id: str) -> None:
    """What stays is the mark of a later revision, against writers that are late."""
    await world.client.set(redis_keys.revocation(entry_id), f"-2:{ISSUED_AT + 20}")
    assert (await world.settlement.settle(ask())).outcome is Outcome.OK
