"""One shard's ledger stream in Redis, as one consumer of the group sees it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from ext_authz import redis_keys
from ext_authz.redis_keys import LEDGER_GROUP
from ext_authz.usage.line import StreamEntry

BLOCK_MS = 500
"""How long a read waits for the next event; also how long a stop may take."""


class LedgerStream:
    """An entry leaves the stream only through `done`. Every method raises RedisError when Redis gives no answer."""

    def __init__(self, redis: Redis, consumer: str, shard: int) -> None:
        self.name = redis_keys.events(shard)
        self._redis = redis
        self._consumer = consumer
        self._pending = True

    async def open(self) -> None:
        """Join the group; after a flush it is made anew, from the first entry."""
        self._pending = True
        try:
            await self._redis.xgroup_create(self.name, LEDGER_GROUP, id="0", mkstream=True)
        except ResponseError as answer:
            if not str(answer).startswith("BUSYGROUP"):
                raise

    async def adopt(self, idle_ms: int) -> None:
        """Take over what a consumer has left lying for so long: it is dead, or its work is repeated harmlessly."""
        cursor: Any = "0-0"
        while True:
            answer: Any = await self._redis.xautoclaim(
                self.name, LEDGER_GROUP, self._consumer, idle_ms, start_id=cursor, count=1000
            )
            cursor = answer[0]
            self._pending = self._pending or bool(answer[1])  # they come with the next read
            if cursor == b"0-0":
                return

    async def read(self, count: int) -> list[StreamEntry]:
        """What was delivered to this consumer before and not finished; then what is new, waiting a little for it."""
        if self._pending:
            unfinished = await self._read("0", count, block=None)
            self._pending = bool(unfinished)
            if unfinished:
                return unfinished
        return await self._read(">", count, block=BLOCK_MS)

    async def done(self, entries: Sequence[StreamEntry]) -> None:
        """The ledger holds them: out of the stream."""
        ids = [entry.id for entry in entries]
        async with self._redis.pipeline(transaction=True) as both:
            both.xack(self.name, LEDGER_GROUP, *ids)
            both.xdel(self.name, *ids)
            await both.execute()

    async def depth(self) -> int:
        return int(await self._redis.xlen(self.name))

    async def age(self) -> float:
        """Seconds that the oldest entry has been waiting, by Redis' clock."""
        first: Any = await self._redis.xrange(self.name, count=1)
        if not first:
            return 0.0
        seconds, microseconds = await self._redis.time()
        oldest = StreamEntry(first[0][0].decode(), {}).seconds
        return float(max(0.0, seconds + microseconds / 1e6 - oldest))

    async def _read(self, start: str, count: int, block: int | None) -> list[StreamEntry]:
        answer: Any = await self._redis.xreadgroup(LEDGER_GROUP, self._consumer, {self.name: start}, count, block)
        return [StreamEntry(entry_id.decode(), fields) for _, entries in answer for entry_id, fields in entries]
