"""A Redis that the ledger has filled: the worker empties it with what needs no memory, and all of it arrives once."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from redis.exceptions import OutOfMemoryError

from ext_authz.db.redis_keys import LEDGER_GROUP
from tests.e2e.ledger.world import STREAM, World, event, world_of
from tests.services import RedisServer, redis_programs, running_redis
from tests.waiting import running, until

ROOM = 1_000_000
"""Bytes that the ledger fills. The connections of Redis 7.0 take 300,000 of them."""


@pytest.fixture(params=redis_programs().values(), ids=list(redis_programs()))
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RedisServer]:
    with running_redis(tmp_path, program=request.param) as server:
        yield server


@pytest.fixture
async def world(database_url: str, server: RedisServer) -> AsyncIterator[World]:
    async with world_of(database_url, server.url) as world:
        yield world


async def fill(world: World) -> int:
    """Events until Redis takes no more; how many it took."""
    used = (await world.redis.info("memory"))["used_memory"]
    await world.redis.config_set("maxmemory", used + ROOM)
    with suppress(OutOfMemoryError):
        while True:
            await world.record(event())
    return int(await world.redis.xlen(STREAM))


@pytest.mark.parametrize("group", ["a group, with a batch under way", "no group"])
async def test_a_worker_that_comes_when_redis_is_full_empties_it(world: World, group: str) -> None:
    if group != "no group":
        await world.redis.xgroup_create(STREAM, LEDGER_GROUP, id="0", mkstream=True)
    taken = await fill(world)
    if group != "no group":
        await world.redis.xreadgroup(LEDGER_GROUP, "killed in the middle", {STREAM: ">"}, 10)
    async with running(world.worker("a", batch=20, adopt=0.1), world.worker("b", batch=20, adopt=0.1)):
        await until(world.drained)
        assert await world.moved() == taken
        await world.record(event())  # there is room again
        await until(world.drained)
    assert (await world.moved(), await world.rejected()) == (taken + 1, [])


async def test_a_full_redis_is_waited_for_and_logged_once(world: World, caplog: pytest.LogCaptureFixture) -> None:
    await world.redis.config_set("maxmemory", 1)
    with caplog.at_level(logging.INFO):
        async with running(world.worker()):
            await until(lambda: _tries(world, 4))
            assert [line.__dict__["error"].partition(":")[0] for line in caplog.records] == ["redis"]
            assert "it is full" in caplog.records[0].__dict__["error"]
            await world.redis.config_set("maxmemory", 0)
            await world.record(event())
            await until(world.drained)


async def _tries(world: World, times: int) -> bool:
    """How often the worker has asked in vain for a group."""
    stats = await world.redis.info("commandstats")
    return bool(sum(stats[name]["rejected_calls"] for name in stats if "xgroup" in name) >= times)
