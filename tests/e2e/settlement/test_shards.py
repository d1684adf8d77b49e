"""Three shards on the three nodes of a cluster: the same behaviour, and nothing stays taken for a refusal."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from ext_authz.db import redis_keys
from ext_authz.revocation.entry import Kind
from ext_authz.settlement.cluster import home_of, shard_of
from ext_authz.settlement.model import Outcome, QuotaRequest, SettleRequest, SettleResult
from tests.e2e.settlement.redis_world import ClusterWorld
from tests.services import RedisServer
from tests.unit.settlement.suite import (
    IncompleteSuite,
    LimitsSuite,
    RevocationSuite,
    is_about,
)
from tests.unit.settlement.world import allowed, ask, calendar, dry_run, gcra, left, settle, sliding, window

SHARDS = 3


@pytest.fixture
async def world(nodes: list[RedisServer]) -> AsyncIterator[ClusterWorld]:
    async with ClusterWorld(nodes[0].url, shards=SHARDS) as world:
        yield world


class TestShards(LimitsSuite, RevocationSuite, IncompleteSuite):
    pass


def key_in(shard: int, name: str) -> str:
    """A limit's key that lives there."""
    return next(
        key for key in (f"{name}\x1f{number}" for number in range(100)) if shard_of(window(1, key=key), SHARDS) == shard
    )


HOME = home_of(ask(), SHARDS)
OTHER, THIRD = (shard for shard in range(SHARDS) if shard != HOME)


def test_the_limits_of_a_user_are_at_home() -> None:
    for user in ("alice", "bob", "carol", "dave"):
        question = SettleRequest(("", "", f"u:kc:{user}", "", ""), 0, (), b"{}")
        for key in (f"per-user\x1fkc:{user}", f"per-user-and-path\x1fkc:{user}\x1f/v2"):
            assert shard_of(window(1, key=key), SHARDS) == home_of(question, SHARDS)


@pytest.mark.parametrize("full", [HOME, OTHER, THIRD])
async def test_what_one_shard_refuses_the_others_give_back(world: ClusterWorld, full: int) -> None:
    windows = [window(2 if shard == full else 10, key=key_in(shard, "window")) for shard in range(SHARDS)]
    smooth = [gcra(10, burst=10, key=key_in(shard, "gcra")) for shard in range(SHARDS)]
    slides = [sliding(10, key=key_in(shard, "sliding")) for shard in range(SHARDS)]
    quotas = [calendar(10, key=key_in(shard, "calendar")) for shard in range(SHARDS)]
    every = (*windows, *smooth, *slides, *quotas)
    answers = [await settle(world, *every) for _ in range(5)]

    assert [answer.outcome for answer in answers] == [Outcome.OK] * 2 + [Outcome.LIMITED] * 3
    expected = (*(0 if shard == full else 8 for shard in range(SHARDS)), *[8] * 9)
    assert all(answer.remaining == expected for answer in answers[1:])
    assert {answer.limited_by for answer in answers[2:]} == {full}
    assert await left(world, *every) == expected
    assert [outcome for _, outcome in await world.ledger()].count(Outcome.LIMITED) == 3
    entries = await world.client.xrange(redis_keys.events(HOME))
    assert [fields.get(b"l") for _, fields in entries[:5]] == [None] * 2 + [windows[full].key.encode()] * 3


async def test_of_several_shards_that_refuse_the_limit_that_resets_last_is_named(world: ClusterWorld) -> None:
    waits = {HOME: 50_000, OTHER: 40_000, THIRD: 30_000}
    quota_requests = [window(1, key=key_in(shard, "window"), window_ms=wait) for shard, wait in waits.items()]
    await settle(world, *quota_requests)
    refused = await settle(world, *quota_requests)
    assert refused.limited_by == 0
    assert is_about(refused.retry_after_ms, 50_000)


@pytest.mark.parametrize("over", [HOME, OTHER, THIRD])
async def test_a_dry_run_limit_of_any_shard_is_told_to_the_ledger_and_gives_nothing_back(
    world: ClusterWorld, over: int
) -> None:
    quota_requests = [
        dry_run(window(1 if shard == over else 9, key=key_in(shard, "window"))) for shard in range(SHARDS)
    ]
    answers = [await settle(world, *quota_requests, gcra(2, 2, key=key_in(THIRD, "real"))) for _ in range(3)]

    assert [answer.outcome for answer in answers] == [Outcome.OK, Outcome.OK, Outcome.LIMITED]
    assert [answer.dry_run_over for answer in answers[:2]] == [(), (over,)]
    assert sorted(outcome for _, outcome in await world.ledger()) == [Outcome.OK, Outcome.LIMITED, Outcome.DRY_RUN_OVER]
    assert await left(world, *quota_requests) == tuple(0 if shard == over else 7 for shard in range(SHARDS))


async def test_a_revoked_token_leaves_nothing_taken_anywhere(world: ClusterWorld) -> None:
    await world.revoke("t:kc:revoked")
    quota_requests = [window(2, key=key_in(shard, "window")) for shard in range(SHARDS)]
    for _ in range(3):
        assert (await world.settlement.settle(ask(*quota_requests, token="revoked"))) == SettleResult(
            Outcome.REVOKED, revoked_by=Kind.TOKEN
        )
    assert await left(world, *quota_requests) == (2, 2, 2)


async def test_a_ledger_that_is_full_leaves_nothing_taken_anywhere(nodes: list[RedisServer]) -> None:
    async with ClusterWorld(nodes[0].url, shards=SHARDS, ledger_max=1) as world:
        quota_requests = [window(2, key=key_in(shard, "window")) for shard in range(SHARDS)]
        assert (await settle(world, *quota_requests)).remaining == (1, 1, 1)
        with pytest.raises(Exception, match="ledger"):
            await settle(world, *quota_requests)
        free = [QuotaRequest(take.key, take.algorithm, take.limit, take.window_ms, 0, 0) for take in quota_requests]
        assert (await world.settlement.settle(SettleRequest(("",) * 5, 0, tuple(free), b""))).remaining == (1, 1, 1)


async def test_exact_under_concurrency(world: ClusterWorld, nodes: list[RedisServer]) -> None:
    quota_requests = (
        window(90, key=key_in(HOME, "window")),
        gcra(1, burst=70, key=key_in(OTHER, "gcra"), window_ms=3_600_000),
        window(80, key=key_in(THIRD, "window")),
    )
    async with ClusterWorld(nodes[1].url, shards=SHARDS) as second:
        answers = await asyncio.gather(*(settle(each, *quota_requests) for _ in range(200) for each in (world, second)))
    passed = sum(answer.outcome is Outcome.OK for answer in answers)

    # What is given back a moment later may have refused somebody meanwhile: never more, possibly fewer, and none lost.
    assert passed <= 70
    assert await left(world, *quota_requests) == (90 - passed, 70 - passed, 80 - passed)
    assert await allowed(world, 71, *quota_requests) == 70 - passed
