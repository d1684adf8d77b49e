"""The counters themselves, in Redis: a change is in force at every replica with the next check."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Awaitable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from enum import IntEnum
from importlib.resources import files
from typing import Any, TypeVar

from msgspec import Struct
from redis.asyncio import Redis
from redis.exceptions import RedisError

from ext_authz.db import redis_keys
from ext_authz.db.causes import redis_cause
from ext_authz.db.redis import connected
from ext_authz.errors import Unavailable
from ext_authz.quotas.counters import Counter
from ext_authz.settings import StoreSettings
from ext_authz.settlement.cluster import shard_of
from ext_authz.settlement.model import QuotaRequest

PATIENCE = 5.0
"""Seconds an administrator waits for Redis."""
_BOOST, _END_BOOST = (files("ext_authz.quotas").joinpath(name).read_text() for name in ("boost.lua", "end_boost.lua"))
_WINDOW = re.compile(rb"([0-9]{1,15}):(-?[0-9]{1,18})")
T = TypeVar("T")


class Count(Struct, frozen=True):
    """What a counter says, as of `now`; times in ms since the epoch."""

    now: int
    used: int | None = None
    """Below 0 as long as a boost is not used up; None: nothing is counted, or not by windows."""
    ends: int = 0
    """When its window ends; 0: none is open."""
    boost: int = 0
    """What was given besides the limit, in this window."""


class Given(IntEnum):
    """What became of a boost."""

    IN_FORCE = 1
    HAS_ONE = 0
    """The window has one already."""
    TOO_LATE = -1


class QuotaStore:
    """Every method raises Unavailable("redis")."""

    def __init__(self, clients: Sequence[Redis]) -> None:
        """`clients`: of every shard, in their order."""
        self._clients = clients

    async def read(self, counter: Counter) -> Count:
        """Nothing is taken."""
        redis, keys = self._place(counter.key)
        (seconds, microseconds), value, boost = await _answer(_together(redis, keys))
        now = seconds * 1000 + microseconds // 1000
        given = int(boost.partition(b":")[0]) if boost else 0
        window = _WINDOW.fullmatch(value or b"") if counter.has_windows else None
        if window is None or int(window[1]) <= now:
            return Count(now, boost=given)
        return Count(now, int(window[2]), int(window[1]), given)

    async def reset(self, counter: Counter) -> None:
        """From now on as if nobody had called: a boost is gone too."""
        redis, keys = self._place(counter.key)
        await _answer(redis.delete(*keys))

    async def boost(self, counter: Counter, boost_id: str, amount: int, window_end: int, latest: int) -> Given:
        """`window_end`: of a window that opens now; `latest`: when it is too late to do it. All in ms."""
        redis, keys = self._place(counter.key)
        done = await _answer(redis.register_script(_BOOST)(keys, [boost_id, amount, window_end, latest]))
        return Given(int(done))

    async def end_boost(self, key: str, boost_id: str) -> bool:
        """Take it back, once; whether it was still in force."""
        redis, keys = self._place(key)
        return bool(await _answer(redis.register_script(_END_BOOST)(keys, [boost_id])))

    async def use_up(self, key: str, until: datetime) -> None:
        """Of a limit of one from which nothing is taken: more is used than there is, until then."""
        redis, (counter, _) = self._place(key)
        ends = int(until.timestamp() * 1000)
        await _answer(redis.set(counter, f"{ends}:2", pxat=ends))

    async def forget(self, key: str) -> None:
        """Nothing is used of it."""
        redis, (counter, _) = self._place(key)
        await _answer(redis.delete(counter))

    def _place(self, key: str) -> tuple[Redis, list[str]]:
        shard = shard_of(QuotaRequest(key, 0, 0, 0, 0), len(self._clients))
        return self._clients[shard], [redis_keys.counter(key, shard), redis_keys.boost(key, shard)]


@asynccontextmanager
async def quota_store(settings: StoreSettings) -> AsyncGenerator[QuotaStore]:
    """For one command."""
    url = settings.redis_url.get_secret_value()
    async with connected(url, shards=settings.redis_shards, seconds=PATIENCE) as clients:
        yield QuotaStore(clients)


async def _together(redis: Redis, keys: list[str]) -> tuple[tuple[int, int], Any, Any]:
    value, boost = await redis.mget(keys)
    return await redis.time(), value, boost


async def _answer(work: Awaitable[T]) -> T:
    try:
        return await work
    except (RedisError, OSError) as failure:
        raise Unavailable("redis", redis_cause(failure)) from failure
