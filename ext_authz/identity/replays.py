"""What replicas share about DPoP proofs: which were used, and the nonces of the present. In Redis; fails closed.

A proof is used once: `SET NX` is one atomic step, so of two replicas that get the same proof at the same time one
refuses it. Nonces are random and change with time; none is kept in a process, so replicas never disagree about one,
not even after a Redis was emptied: then callers are told a new one.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from typing import Any, Protocol
from zlib import crc32

from redis.asyncio import Redis
from redis.exceptions import AskError, RedisError

from ext_authz.db import redis_keys
from ext_authz.db.causes import redis_cause
from ext_authz.db.redis import ask_target
from ext_authz.errors import Unavailable

NONCE_SECONDS = 120
"""A nonce is told to callers for so long, and accepted for as long again."""
MAX_CONNECTIONS = 32
"""To each shard: more proofs at once wait for one of them."""


class Replays(Protocol):
    """`RedisReplays` in a worker."""

    async def first_use(self, proof: str, seconds: int) -> bool:
        """Whether this proof was not used before; it is used now, and known for so long. Raises Unavailable."""

    async def nonces(self, now: float) -> Sequence[str]:
        """Those that are accepted at this time; the first is told to callers. Raises Unavailable."""


class RedisReplays:
    """For one event loop. Connects when it is used: a policy without DPoP opens no connection."""

    def __init__(self, clients: Sequence[Redis], timeout: float) -> None:
        """`clients`: of every shard, in their order. `timeout`: seconds for one question, waiting included."""
        self._timeout = timeout
        self._clients = clients
        self._free = [asyncio.Semaphore(MAX_CONNECTIONS) for _ in clients]

    async def stop(self) -> None:
        for client in self._clients:
            await client.aclose()

    async def first_use(self, proof: str, seconds: int) -> bool:
        shard = crc32(proof.encode()) % len(self._clients)
        return await self._set_new(redis_keys.proof(proof, shard), "1", seconds, shard)

    async def nonces(self, now: float) -> Sequence[str]:
        window = int(now // NONCE_SECONDS)
        keys = redis_keys.nonce(window), redis_keys.nonce(window - 1)
        present, before = await self._ask(0, "MGET", *keys)
        if present is None:
            await self._set_new(keys[0], secrets.token_urlsafe(16), 3 * NONCE_SECONDS, 0)
            present, before = await self._ask(0, "MGET", *keys)
        if present is None:
            raise Unavailable("redis", "it does not keep what is written")
        return [nonce.decode() for nonce in (present, before) if nonce]

    async def _set_new(self, key: str, value: str, seconds: int, shard: int) -> bool:
        return await self._ask(shard, "SET", key, value, "NX", "EX", str(seconds)) is not None

    async def _ask(self, shard: int, *command: str) -> Any:  # noqa: ANN401 - whatever it answers
        client = self._clients[shard]
        try:
            async with asyncio.timeout(self._timeout), self._free[shard]:
                return await _answer(client, command)
        except TimeoutError:
            raise Unavailable("redis", "no answer in time") from None
        except (RedisError, OSError) as failure:
            raise Unavailable("redis", redis_cause(failure)) from None


async def _answer(client: Redis, command: Sequence[str]) -> Any:  # noqa: ANN401 - as above
    try:
        return await client.execute_command(*command)  # type: ignore[no-untyped-call]
    except AskError as moving:
        # The slot is on its way to another node, which alone may make a key that is not here (any more).
        return await ask_target(client, moving, *command)
