"""Six nodes under load, while a slot migrates, comes back, is left half way, and its primary dies.

Nobody revoked gets in, no limit is exceeded, every answer is in the ledger once; 503 while a replica takes over, and
not for a migration.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.asyncio import Redis as AsyncRedis

from ext_authz.db import redis_keys
from tests import redis_acl
from tests.e2e.cluster.world import FEW, World, world_of
from tests.e2e.settlement.cluster import NODE_TIMEOUT_MS, SlotMove, holder_of, primaries, replica_of, running_cluster
from tests.services import RedisServer, redis_programs
from tests.waiting import until

pytestmark = pytest.mark.alone

SLOT = 8230
"""Of shard 0."""
OK, DENIED, EXHAUSTED, UNAVAILABLE, REFUSED = 0, 7, 8, 14, 16
TIMEOUT = 0.5
FAILOVER = 3 * NODE_TIMEOUT_MS / 1000 + 4
"""Seconds: to notice, to elect, to tell the others; and what a busy machine adds."""
PROGRAMS = {name: program for name, program in redis_programs().items() if name in ("redis-6.2", "valkey-9")}


@pytest.fixture(scope="module", params=PROGRAMS.values(), ids=list(PROGRAMS))
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RedisServer]]:
    with running_cluster(tmp_path_factory.mktemp("six"), replicas=3, program=request.param) as nodes:
        yield nodes


@pytest.fixture
def nodes(cluster: list[RedisServer]) -> list[RedisServer]:
    for node in primaries(cluster):
        with Redis.from_url(node.url) as client:
            client.flushall()
    return cluster


class AtHolder(AsyncExitStack):
    """Each command over a connection of its own to whoever holds the slot now: redis-py's client leaks dead nodes."""

    def __init__(self, nodes: list[RedisServer]) -> None:
        super().__init__()
        self._nodes = nodes

    def __getattr__(self, command: str) -> Any:  # noqa: ANN401 - redis-py's
        async def run(*words: object) -> object:
            async with AsyncRedis.from_url(holder_of(self._nodes, SLOT).url) as client:
                return await getattr(client, command)(*words)

        return run


@pytest.fixture
async def world(
    nodes: list[RedisServer], database_url: str, jwks_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[World]:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    url, *_ = [redis_acl.allow(node, cluster=True) for node in nodes]
    directly = AtHolder(nodes)
    async with world_of(
        nodes, database_url, jwks_url, tmp_path, shards=1, patience=TIMEOUT, url=url, redis=directly
    ) as world:
        assert await world.tollgate("revoke", "user", "revoked", "--issuer", "kc") == 0
        yield world


def move_of(nodes: list[RedisServer]) -> SlotMove:
    """From where the slot is to another primary."""
    source = holder_of(nodes, SLOT)
    return SlotMove(nodes, SLOT, source, next(node for node in primaries(nodes)[1:] if node is not source))


class Load:
    """Callers that never stop."""

    def __init__(self, world: World) -> None:
        self.good: Counter[int] = Counter()
        self.revoked: Counter[int] = Counter()
        self.passed: Counter[str] = Counter()
        """Of callers with a limit of `FEW`."""
        self.answered = 0
        self.unavailable: list[float] = []
        self._world = world

    async def good_caller(self, name: str) -> None:
        while True:
            self.good[await self._call(name)] += 1

    async def revoked_caller(self) -> None:
        while True:
            self.revoked[await self._call("revoked")] += 1

    async def limited_callers(self) -> None:
        """New ones all the time: their counters are first made in the middle of whatever happens."""
        for number in range(10_000):
            await asyncio.gather(*(self._spend(f"limited-{number}-{place}") for place in range(3)))

    async def _spend(self, name: str) -> None:
        while await self._call(name, "generate") != EXHAUSTED:
            pass

    async def _call(self, subject: str, path: str = "infer") -> int:
        code = int((await self._world.check(subject, path)).status.code)
        self.answered += 1
        if code == UNAVAILABLE:
            self.unavailable.append(time.monotonic())
        if path == "generate":
            self.passed[subject] += code == OK
            assert code != DENIED
        await asyncio.sleep(0.002)  # leave the servers some of the processor
        return code

    async def some(self, calls: int = 200) -> None:
        """Let it go on for so many answers."""
        enough = self.answered + calls
        await until(lambda: self._reached(enough))

    async def _reached(self, answers: int) -> bool:
        return self.answered >= answers

    def ensure_nobody_got_more(self) -> None:
        assert self.revoked[OK] == 0
        assert max(self.passed.values()) <= FEW

    def ensure_all_were_served(self) -> None:
        self.ensure_nobody_got_more()
        assert not self.unavailable, (self.good, self.revoked)
        assert set(list(self.passed.values())[:-3]) == {FEW}


@asynccontextmanager
async def under_load(world: World) -> AsyncIterator[Load]:
    load = Load(world)
    callers = [load.good_caller("alice"), load.good_caller("bob"), load.revoked_caller(), load.limited_callers()]
    tasks = [asyncio.create_task(caller) for caller in callers]
    try:
        yield load
    finally:
        for task in tasks:
            task.cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(end) for end in done} == {asyncio.CancelledError}


async def test_a_migration_costs_no_check_however_long_it_takes(world: World, nodes: list[RedisServer]) -> None:
    move = move_of(nodes)
    async with under_load(world) as load:
        await load.some()
        await asyncio.to_thread(move.begin)
        await load.some()
        await asyncio.to_thread(move.move, 5)
        await load.some()
        assert await world.tollgate("revoke", "user", "alice", "--issuer", "kc") == 0
        assert await world.refused("alice")
        await asyncio.to_thread(move.move_all)
        await load.some()
        await asyncio.to_thread(move.end)
        await load.some()
        await until(world.all_complete)
        assert await world.refused("alice")
        await load.some()
    load.ensure_all_were_served()
    await ensure_recorded_once(world, load)


async def test_a_slot_that_wanders_costs_no_check(world: World, nodes: list[RedisServer]) -> None:
    async with under_load(world) as load:
        for _ in range(4):
            move = move_of(nodes)
            await asyncio.to_thread(move.begin)
            await load.some(150)
            await asyncio.to_thread(move.move_all)
            await load.some(100)
            await asyncio.to_thread(move.end)
            await load.some(100)
    load.ensure_all_were_served()
    await ensure_recorded_once(world, load)


async def test_a_migration_that_is_given_up_accepts_no_token_revoked_meanwhile(
    world: World, nodes: list[RedisServer]
) -> None:
    move = move_of(nodes)
    assert not await world.refused("alice")
    move.begin()
    assert not await world.refused("alice")
    assert await world.tollgate("revoke", "user", "alice", "--issuer", "kc") == 0
    assert await world.refused("alice")
    move.cancel()
    assert [await world.refused("alice") for _ in range(50)] == [True] * 50
    assert not await world.refused("bob")
    await until(world.all_complete)
    assert [await world.refused(name) for name in ("alice", "bob", "revoked")] == [True, False, True]
    move.begin()
    move.move_all("REPLACE")  # the way out: what was settled there is in the way
    move.end()
    await until(world.all_complete)


async def test_a_primary_that_dies_costs_no_more_than_the_time_of_the_failover(
    world: World, nodes: list[RedisServer]
) -> None:
    async with under_load(world) as load:
        await load.some()
        primary = holder_of(nodes, SLOT)
        replica = replica_of(primary, nodes)
        primary.kill()
        killed_at = time.monotonic()
        try:
            await until(lambda: is_primary(replica))
            await until(lambda: passes(world), seconds=FAILOVER)
            back_at = time.monotonic()
            await load.some()
            assert await world.tollgate("revoke", "user", "bob", "--issuer", "kc") == 0
            assert await world.refused("bob")
        finally:
            primary.start()
        await load.some()
        await until(world.all_complete)
    load.ensure_nobody_got_more()
    assert back_at - killed_at <= FAILOVER
    assert not [moment for moment in load.unavailable if moment > back_at + 1]
    print(f"\nfailover: {len(load.unavailable)} answers were 503 in {back_at - killed_at:.1f} s")  # noqa: T201
    assert load.good[OK]


async def is_primary(node: RedisServer) -> bool:
    return node in primaries([node])


async def passes(world: World) -> bool:
    return (await world.check("carol")).status.code == OK


async def ensure_recorded_once(world: World, load: Load) -> None:
    """The checks of the load, and a few of the test's own."""
    with world.command("usage-worker", "--name", "worker") as worker:
        await until(lambda: _all_moved(world), seconds=60)
        worker.terminate()
        assert worker.wait(20) == 0
    ((rows,),) = await world.sql("SELECT count(*) FROM usage_events")
    assert load.answered <= rows <= load.answered + 10
    assert await world.sql("SELECT reason FROM usage_rejects") == []


async def _all_moved(world: World) -> bool:
    return not await world.redis.xlen(redis_keys.events())
