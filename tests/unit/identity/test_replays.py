"""The store of used proofs over a Redis that answers as it is told; tests/e2e/identity has real ones."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest
from redis.asyncio import Redis
from redis.exceptions import AskError
from redis.exceptions import ConnectionError as ConnectionLost

from ext_authz.errors import Unavailable
from ext_authz.identity import replays as module
from ext_authz.identity.replays import MAX_CONNECTIONS, NONCE_SECONDS, RedisReplays


class FakeRedis:
    """SET NX and MGET, or what `answer` says."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}
        self.asked: list[tuple[str, ...]] = []
        self.answer: Callable[[], Any] | None = None
        self.answering = asyncio.Event()
        self.answering.set()
        self.full = asyncio.Event()
        """As many as may ask at once do."""
        self.at_once = self.most = 0
        self.closed = False

    async def execute_command(self, name: str, *arguments: str) -> Any:  # noqa: ANN401 - as Redis answers
        self.asked.append((name, *arguments))
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        if self.at_once == MAX_CONNECTIONS:
            self.full.set()
        try:
            await self.answering.wait()
        finally:
            self.at_once -= 1
        if self.answer:
            return self.answer()
        if name == "MGET":
            return [self.kept.get(key) for key in arguments]
        key, value, *_ = arguments
        if key in self.kept:
            return None
        self.kept[key] = value.encode()
        return True

    async def aclose(self) -> None:
        self.closed = True


def replays_of(*clients: FakeRedis, timeout: float = 5) -> RedisReplays:
    return RedisReplays(cast("list[Redis]", list(clients)), timeout)


async def test_once() -> None:
    redis = FakeRedis()
    replays = replays_of(redis)
    assert await replays.first_use("a", 151)
    assert not await replays.first_use("a", 151)
    assert await replays.first_use("b", 151)
    assert redis.asked[0] == ("SET", "{tg0}:p:a", "1", "NX", "EX", "151")
    await replays.stop()
    assert redis.closed


async def test_every_proof_has_its_shard() -> None:
    shards = [FakeRedis(), FakeRedis()]
    replays = replays_of(*shards)
    for proof in map(str, range(20)):
        assert await replays.first_use(proof, 1)
        assert not await replays.first_use(proof, 1)
    keys = [{asked[1] for asked in shard.asked} for shard in shards]
    assert all(keys)
    assert [{key.partition(":")[0] for key in each} for each in keys] == [{"{tg0}"}, {"{tg1}"}]


async def test_nonces_change_with_time() -> None:
    redis = FakeRedis()
    replays = replays_of(redis)
    now = 1_000_000.0 - 1_000_000 % NONCE_SECONDS
    (first,) = await replays.nonces(now)
    assert await replays.nonces(now + NONCE_SECONDS - 1) == [first]
    second, before = await replays.nonces(now + NONCE_SECONDS)
    assert before == first != second
    assert first not in await replays.nonces(now + 2 * NONCE_SECONDS)


async def test_a_redis_that_forgets_at_once() -> None:
    redis = FakeRedis()
    redis.answer = lambda: [None, None]
    with pytest.raises(Unavailable):
        await replays_of(redis).nonces(0)


@pytest.mark.parametrize("failure", [ConnectionLost("gone"), OSError("no route")])
async def test_redis_is_away(failure: Exception) -> None:
    redis = FakeRedis()

    def fail() -> None:
        raise failure

    redis.answer = fail
    with pytest.raises(Unavailable) as outage:
        await replays_of(redis).first_use("a", 1)
    assert outage.value.dependency == "redis"


async def test_redis_hangs() -> None:
    redis = FakeRedis()
    redis.answering.clear()
    with pytest.raises(Unavailable) as outage:
        await replays_of(redis, timeout=0.01).first_use("a", 1)
    assert outage.value.detail == "no answer in time"


async def test_a_bound_of_connections() -> None:
    redis = FakeRedis()
    redis.answering.clear()
    replays = replays_of(redis)
    many = [asyncio.create_task(replays.first_use(str(number), 1)) for number in range(3 * MAX_CONNECTIONS)]
    await redis.full.wait()
    redis.answering.set()
    assert all(await asyncio.gather(*many))
    assert redis.most == MAX_CONNECTIONS


async def test_a_slot_on_its_way(monkeypatch: pytest.MonkeyPatch) -> None:
    redis = FakeRedis()
    moving = AskError("7 127.0.0.1:6379")

    def fail() -> None:
        raise moving

    redis.answer = fail
    target: list[object] = []

    async def ask_target(*asked: object) -> bytes:
        target.append(asked)
        return b"OK"

    monkeypatch.setattr(module, "ask_target", ask_target)
    assert await replays_of(redis).first_use("a", 9)
    assert target == [(redis, moving, "SET", "{tg0}:p:a", "1", "NX", "EX", "9")]
