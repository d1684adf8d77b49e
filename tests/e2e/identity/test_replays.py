"""The store of used proofs over real servers: one Redis, and a cluster whose slot moves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from redis import Redis
from redis.crc import key_slot

from ext_authz.db import redis_keys
from ext_authz.db.redis import connected
from ext_authz.identity.replays import NONCE_SECONDS, RedisReplays
from tests.e2e.settlement.cluster import SlotMove, holder_of, running_cluster

SHARDS = 3


@asynccontextmanager
async def two_of(url: str, shards: int = 1) -> AsyncIterator[tuple[RedisReplays, RedisReplays]]:
    """Of two replicas."""
    async with connected(url, shards=shards, seconds=5) as one, connected(url, shards=shards, seconds=5) as other:
        yield RedisReplays(one, 5), RedisReplays(other, 5)


async def test_of_two_replicas_one_has_a_proof(redis_url: str) -> None:
    async with two_of(redis_url) as (one, other):
        proofs = [f"proof-{number}" for number in range(500)]
        uses = [asyncio.gather(one.first_use(proof, 60), other.first_use(proof, 60)) for proof in proofs]
        assert [sorted(both) for both in await asyncio.gather(*uses)] == [[False, True]] * len(proofs)
    with Redis.from_url(redis_url) as client:
        assert 0 < client.ttl(redis_keys.proof("proof-0")) <= 60


async def test_both_replicas_have_the_same_nonce(redis_url: str) -> None:
    async with two_of(redis_url) as (one, other):
        now = 1_795_179_600.0
        found = await asyncio.gather(*(each.nonces(now) for each in (one, other) for _ in range(20)))
        assert len({tuple(nonces) for nonces in found}) == 1
        (first,) = found[0]
        assert (await other.nonces(now + NONCE_SECONDS))[1] == first
        with Redis.from_url(redis_url) as client:
            client.flushall()
        (anew,) = await one.nonces(now)
        assert anew != first
        assert list(await other.nonces(now)) == [anew], "no replica holds on to what is gone"


async def test_a_cluster_while_a_slot_moves(tmp_path: Path) -> None:
    with running_cluster(tmp_path) as nodes:
        async with two_of(nodes[0].url, SHARDS) as (one, other):
            before = [f"before-{number}" for number in range(60)]
            assert all([await one.first_use(proof, 600) for proof in before])
            slot = key_slot(redis_keys.shard_tag(0).encode())
            source = holder_of(nodes, slot)
            target = next(node for node in nodes if node is not source)
            move = SlotMove(nodes, slot, source, target)
            move.begin()
            move.move(5)
            during = [f"during-{number}" for number in range(60)]
            assert all([await one.first_use(proof, 600) for proof in during])
            assert not any([await other.first_use(proof, 600) for proof in (*before, *during)])
            move.move_all()
            move.end()
            assert not any([await each.first_use(proof, 600) for proof in (*before, *during) for each in (one, other)])
