"""What the ledger costs when its stores are killed: nothing for Postgres; for Redis it is measured and stated here.

docs/adr/0004-ledger-exactly-once.md has the same statements.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from redis.exceptions import RedisError

from tests.e2e.ledger.world import STREAM, World, event, world_of
from tests.postgres import PostgresServer, running_postgres
from tests.services import RedisServer, running_redis
from tests.waiting import running, until

FSYNC_WINDOW = 2.0
"""Seconds: with appendfsync everysec Redis syncs once a second, and lets a slow disk delay a write up to two."""


@pytest.fixture
def postgres() -> Iterator[PostgresServer]:
    """A Postgres to kill."""
    with running_postgres() as server:
        yield server


async def test_postgres_killed_twice_costs_nothing(postgres: PostgresServer, redis_url: str) -> None:
    async with world_of(postgres.url, redis_url) as world:
        events = [event() for _ in range(10_000)]
        async with running(world.worker("a", batch=50), world.worker("b", batch=50)):
            for part in (events[:5000], events[5000:]):
                moved = await world.moved()
                await world.record(*part)

                async def under_way(moved: int = moved) -> bool:
                    return await world.moved() > moved

                await until(under_way)
                postgres.kill()
                postgres.start()
            await until(world.drained, seconds=60)
        assert (await world.moved(), await world.rejected()) == (10_000, [])


class Producer:
    """Checks that are answered: each batch counts from the moment Redis has acknowledged it."""

    def __init__(self, world: World) -> None:
        self.acknowledged: dict[str, float] = {}
        self._world = world

    async def run(self) -> None:
        """Until Redis does not answer any more."""
        with suppress(RedisError):
            while True:
                events = [event() for _ in range(20)]
                await self._world.record(*events)
                now = time.monotonic()
                self.acknowledged.update((one.decision_id, now) for one in events)

    async def enough(self, events: int) -> bool:
        return len(self.acknowledged) >= events


@pytest.fixture(params=["everysec", "always"])
def durable_redis(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[RedisServer, str]]:
    """A Redis to kill, and how it syncs."""
    with running_redis(tmp_path, "--appendfsync", request.param) as server:
        yield server, request.param


@pytest.fixture
async def world(database_url: str, durable_redis: tuple[RedisServer, str]) -> AsyncIterator[World]:
    async with world_of(database_url, durable_redis[0].url) as world:
        yield world


async def _lost(world: World, producer: Producer) -> set[str]:
    """Acknowledged and not in the ledger, after everything that is left has been moved."""
    await world.redis.connection_pool.disconnect()
    async with running(world.worker("after", batch=1000, adopt=0.2)):
        await until(world.drained, seconds=60)
    stored = {str(row[0]) for row in await world.sql("SELECT decision_id FROM usage_events")}
    assert await world.rejected() == []
    return set(producer.acknowledged) - stored


async def test_a_killed_redis_costs_at_most_what_it_had_not_written_and_nothing_is_doubled(
    world: World, durable_redis: tuple[RedisServer, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """SIGKILL. Redis writes before it answers; but `everysec` puts writes off while a slow disk still syncs."""
    server, fsync = durable_redis
    producer = Producer(world)
    async with running(world.worker(batch=50)):
        producing = asyncio.create_task(producer.run())
        await until(lambda: producer.enough(3000))
        server.kill()
        killed = time.monotonic()
        await producing
        server.start()
        lost = await _lost(world, producer)
    with capsys.disabled():
        print(f"\nredis killed, appendfsync {fsync}: {len(lost)} of {len(producer.acknowledged)} lost")  # noqa: T201
    if fsync == "always":
        assert lost == set()
    assert all(producer.acknowledged[one] >= killed - FSYNC_WINDOW for one in lost)


@pytest.mark.parametrize("durable_redis", ["everysec"], indirect=True)
async def test_a_power_cut_costs_what_was_not_synced(
    world: World, durable_redis: tuple[RedisServer, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """The worst that a power cut can leave: the append-only file as it stood one window before."""
    server, _ = durable_redis
    file = server.directory / "appendonly.aof"
    producer = Producer(world)
    producing = asyncio.create_task(producer.run())
    await until(lambda: producer.enough(2000))
    synced, cut = file.stat().st_size, time.monotonic()
    await until(lambda: _passed(cut + FSYNC_WINDOW))
    server.kill()
    await producing
    os.truncate(file, synced)
    server.start()
    lost = await _lost(world, producer)
    with capsys.disabled():
        print(f"\npower cut, appendfsync everysec: {len(lost)} of {len(producer.acknowledged)} lost")  # noqa: T201
    assert lost
    assert all(producer.acknowledged[one] >= cut for one in lost)


async def _passed(moment: float) -> bool:
    return time.monotonic() >= moment


async def test_a_worker_outlives_a_redis_that_restarts(world: World, durable_redis: tuple[RedisServer, str]) -> None:
    server, _ = durable_redis
    async with running(world.worker()):
        await world.record(event())
        await until(world.drained)
        server.kill()
        server.start()
        await world.redis.connection_pool.disconnect()
        await world.record(event())

        async def both() -> bool:
            return await world.moved() == 2

        await until(both)
    assert await world.redis.xlen(STREAM) == 0
