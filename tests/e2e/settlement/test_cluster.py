"""A plain settlement on a Redis Cluster: whatever node the URL names, and when the shard moves."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from redis import Redis

from ext_authz.db import redis_keys
from ext_authz.errors import Unavailable
from ext_authz.settlement.model import Outcome
from tests.e2e.settlement.redis_world import RedisWorld
from tests.services import RedisServer
from tests.unit.settlement.world import ask, settle, window
from tests.waiting import until

HOLDER = 1
"""The node of the slot of shard 0, 8230."""


@pytest.mark.parametrize("seed", range(3))
async def test_any_node_leads_to_the_shard(nodes: list[RedisServer], seed: int) -> None:
    async with RedisWorld(nodes[HOLDER].url, seed=nodes[seed].url) as world:
        answers = [await settle(world, window(2)) for _ in range(3)]
        assert [answer.remaining for answer in answers] == [(1,), (0,), (0,)]
        assert len(await world.ledger()) == 3


def move_shard(nodes: list[RedisServer], source: int, target: int) -> None:
    """Give the slot, empty, to another node."""
    with ExitStack() as stack:
        clients = [stack.enter_context(Redis.from_url(node.url)) for node in nodes]
        clients[source].flushall()
        slot = clients[0].execute_command("CLUSTER KEYSLOT", redis_keys.shard_tag())
        target_id = clients[target].execute_command("CLUSTER MYID").decode()
        for client in (clients[target], clients[source], *clients):
            client.execute_command("CLUSTER SETSLOT", slot, "NODE", target_id)


async def test_a_shard_that_moves_costs_no_check_and_is_not_believed(nodes: list[RedisServer]) -> None:
    async with RedisWorld(nodes[HOLDER].url, seed=nodes[0].url) as world:
        world.postgres.revoked = {"t:kc:revoked"}
        await settle(world, window(2))
        move_shard(nodes, HOLDER, 2)
        try:
            assert (await world.settlement.settle(ask(token="revoked"))).outcome is Outcome.REVOKED
            assert (await settle(world, window(2))).outcome is Outcome.OK
            assert sum(world.postgres.questions) == 2
        finally:
            move_shard(nodes, 2, HOLDER)
        assert (await settle(world, window(2))).outcome is Outcome.OK


async def test_the_shard_lost_is_unavailable(nodes: list[RedisServer]) -> None:
    async with RedisWorld(nodes[HOLDER].url, seed=nodes[0].url, timeout=1) as world:
        nodes[HOLDER].kill()
        try:
            with pytest.raises(Unavailable):
                await settle(world)
            await until(lambda: not world.settlement.up())
        finally:
            nodes[HOLDER].start()
        await until(world.settlement.up)
