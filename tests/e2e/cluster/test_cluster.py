"""Revocations and usage on a Redis Cluster, end to end: one shard and three, from a URL that names one node."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from redis.asyncio import Redis

from ext_authz.db import redis_keys
from ext_authz.db.redis import connect
from ext_authz.observability.metrics import REVOCATION_REBUILDS
from tests.e2e.cluster.world import World
from tests.e2e.settlement.test_cluster import HOLDER, move_shard
from tests.requests import check_request
from tests.services import RedisServer
from tests.waiting import until

pytestmark = pytest.mark.alone

ROW = "INSERT INTO revocations (kind, issuer, value) VALUES ('user', 'kc', %s)"


async def test_what_is_revoked_is_refused_on_every_shard_when_the_command_ends(world: World) -> None:
    users = [world.user_of(shard) for shard in world.shards]
    assert [await world.refused(user) for user in users] == [False] * len(users)
    for user in users:
        assert await world.tollgate("revoke", "user", user, "--issuer", "kc") == 0
        assert all([await world.held(f"u:kc:{user}", shard) for shard in world.shards])
    assert [await world.refused(user) for user in users] == [True] * len(users)


async def test_a_row_written_by_hand_reaches_every_shard(world: World) -> None:
    users = [world.user_of(shard) for shard in world.shards]
    for user in users:
        await world.sql(ROW, user)
    for user in users:
        await until(lambda u=user: world.refused(u), seconds=5)  # type: ignore[misc]
        for shard in world.shards:  # one after the other
            await until(lambda u=user, s=shard: world.held(f"u:kc:{u}", s), seconds=5)  # type: ignore[misc]


async def test_what_is_lifted_is_let_through_on_every_shard(world: World) -> None:
    users = [world.user_of(shard) for shard in world.shards]
    for user in users:
        assert await world.tollgate("revoke", "user", user, "--issuer", "kc") == 0
        assert await world.tollgate("revocations", "lift", "user", user, "--issuer", "kc") == 0
    assert [await world.refused(user) for user in users] == [False] * len(users)


async def test_the_flush_of_one_node_is_noticed_at_once_and_rebuilt(world: World) -> None:
    flushed = await world.node_of(0)
    there = [shard for shard in world.shards if await world.node_of(shard) is flushed]
    user = world.user_of(0)
    assert await world.tollgate("revoke", "user", user, "--issuer", "kc") == 0
    before = REVOCATION_REBUILDS._value.get()
    async with Redis.from_url(flushed.url) as node:
        await node.flushall()
    assert await world.refused(user)  # Postgres said so, or Redis again
    await until(world.all_complete)
    assert all([await world.held(f"u:kc:{user}", shard) for shard in world.shards])
    assert await world.refused(user)
    assert REVOCATION_REBUILDS._value.get() == before + len(there)


@pytest.mark.parametrize("world", [3], indirect=True)
async def test_a_node_that_is_down_keeps_no_revocation_from_the_others(world: World) -> None:
    down = await world.node_of(0)
    others = [shard for shard in world.shards if await world.node_of(shard) is not down]
    missing = [shard for shard in world.shards if shard not in others]
    assert others
    # Else the whole cluster refuses everything as soon as it knows that one is down.
    await _let_the_others_serve("no", [node for node in world.nodes if node is not down])
    down.kill()
    try:
        status, output = await world.command_output("revoke", "user", "by-command", "--issuer", "kc")
        named = [shard for shard in world.shards if f"redis shard {shard} of 3 does not (" in output]
        assert (status, named) == (3, missing), output
        await world.sql(ROW, "by-hand")
        for shard in others:
            assert await world.held("u:kc:by-command", shard)
            await until(lambda s=shard: world.held("u:kc:by-hand", s), seconds=5)  # type: ignore[misc]
    finally:
        down.start()
        await _let_the_others_serve("yes", world.nodes)
    await until(world.all_complete)
    for user in ("by-command", "by-hand"):
        assert await world.held(f"u:kc:{user}", 0)


async def _let_the_others_serve(full_coverage: str, nodes: Sequence[RedisServer]) -> None:
    for server in nodes:
        async with Redis.from_url(server.url) as node:
            await node.config_set("cluster-require-full-coverage", full_coverage)


async def test_the_usage_of_every_shard_is_moved_exactly_once(world: World) -> None:
    users = [world.user_of(number % len(world.shards), number) for number in range(12)]
    for _ in range(50):
        await asyncio.gather(*(world.check(user) for user in users), *(world.app.check(check_request()) for _ in users))
    await until(lambda: _waiting(world, 1200))
    assert all([await world.redis.xlen(redis_keys.events(shard)) for shard in world.shards])
    for _ in range(2):
        await _kill_in_the_middle(world)
    with world.command("usage-worker", "--name", "worker") as worker:
        await until(lambda: _drained(world))
        worker.terminate()
        assert worker.wait(20) == 0
    counted = await world.sql("SELECT reason, count(*) FROM usage_events GROUP BY 1 ORDER BY 1")
    assert counted == [("allowed", 600), ("no_credential", 600)]
    assert await world.sql("SELECT reason FROM usage_rejects") == []


async def _waiting(world: World, events: int) -> bool:
    """Refusals are written down behind the answer."""
    return bool(sum([await world.redis.xlen(redis_keys.events(shard)) for shard in world.shards]) == events)


async def _kill_in_the_middle(world: World) -> None:
    ((before,),) = await world.sql("SELECT count(*) FROM usage_events")

    async def under_way() -> bool:
        ((rows,),) = await world.sql("SELECT count(*) FROM usage_events")
        return bool(rows > before)

    with world.command("usage-worker", "--name", "worker"):
        await until(under_way)
    assert not await _drained(world)


async def _drained(world: World) -> bool:
    for shard in world.shards:
        groups: Any = await world.redis.xinfo_groups(redis_keys.events(shard))
        if await world.redis.xlen(redis_keys.events(shard)) or [group["pending"] for group in groups] != [0]:
            return False
    return True


@pytest.mark.parametrize("first", range(3))
async def test_a_client_finds_the_node_of_a_shard_and_follows_it(nodes: list[RedisServer], first: int) -> None:
    async with connect(nodes[first].url, timeout=5) as redis, Redis.from_url(nodes[HOLDER].url) as holder:
        await redis.set(redis_keys.rebuilding(), "here")
        assert await holder.get(redis_keys.rebuilding()) == b"here"
        info, there = await redis.info("server"), await holder.info("server")
        assert info["run_id"] == there["run_id"]
        move_shard(nodes, HOLDER, 2)
        try:
            assert await redis.get(redis_keys.rebuilding()) is None
            assert (await redis.info("server"))["run_id"] != there["run_id"]
        finally:
            move_shard(nodes, 2, HOLDER)
