"""Which shards of Redis there are: those of the settings, and those of authorizers that have more.

A process that lasts must see a shard that came after its start: what it does not write there comes into force later
than it says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress

from redis.asyncio import Redis
from redis.exceptions import RedisError

from ext_authz.db import redis_keys
from ext_authz.db.redis import connect

MAX_SHARDS = 64


class Shards:
    """`clients`, by number. They grow; a number that was lowered stays, and what is written there harms nobody."""

    def __init__(self, url: str, clients: Iterable[Redis], seconds: float) -> None:
        """`clients`: of the first shards; `seconds`: that each waits for Redis."""
        self.clients = list(clients)
        self._url = url
        self._seconds = seconds
        self._next: Redis | None = None
        self._looking = asyncio.Lock()

    async def look(self) -> None:
        """Find those that came. A mirror marks its shard before the first check believes it: whoever looks after a
        commit, and finds no mark, knows that the shard will be filled with what was committed.

        Where Redis does not answer there are those that were known: each write says so by itself.
        """
        async with self._looking:
            with suppress(RedisError, OSError):
                while (number := len(self.clients)) < MAX_SHARDS:
                    self._next = self._next or connect(self._url, timeout=self._seconds, shard=number)
                    if not await self._next.exists(redis_keys.complete(number), redis_keys.rebuilding(number)):
                        return
                    self.clients.append(self._next)
                    self._next = None

    async def close(self) -> None:
        """All of them."""
        for client in filter(None, (*self.clients, self._next)):
            await client.aclose()
