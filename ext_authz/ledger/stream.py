"""One shard's ledger stream in Redis, as one consumer of the group sees it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import OutOfMemoryError, ResponseError

from ext_authz.db import redis_keys
from ext_authz.db.redis_keys import LEDGER_GROUP
from ext_authz.ledger.line import StreamEntry

BLOCK_MS = 500
"""How long a read waits for the next event; also how long a stop may take."""
NEVER_MS = 2**40
"""Idle for longer than this is nobody."""


class LedgerStream:
    """An entry leaves the stream only through `done`. Every method raises RedisError when Redis gives no answer."""

    def __init__(self, redis: Redis, consumer: str, shard: int) -> None:
        self.name = redis_keys.events(shard)
        self._redis = redis
        self._consumer = consumer
        self._pending = True
        self._no_room: OutOfMemoryError | None = None
        """Why there is no group: Redis is full. Entries are then read without one, until they have made room."""

    async def open(self) -> None:
        """Join the group; after a flush it is made anew, from the first entry."""
        self._pending, self._no_room = True, None
        try:
            await self.adopt(NEVER_MS)  # making a group needs memory, which joining one does not
        except ResponseError as answer:
            if not str(answer).startswith("NOGROUP"):
                raise
            await self._make_group()

    async def _make_group(self) -> None:
        try:
            await self._redis.xgroup_create(self.name, LEDGER_GROUP, id="0", mkstream=True)
            self._no_room = None
        except OutOfMemoryError as full:
            self._no_room = full
        except ResponseError as answer:
            if not str(answer).startswith("BUSYGROUP"):
                raise

    async def adopt(self, idle_ms: int) -> None:
        """Take over what a consumer has left lying for so long: it is dead, or its work is repeated harmlessly."""
        cursor: Any = "0-0"
        while not self._no_room:
            answer: Any = await self._redis.xautoclaim(
                self.name, LEDGER_GROUP, self._consumer, idle_ms, start_id=cursor, count=1000
            )
            cursor = answer[0]
            self._pending = self._pending or bool(answer[1])  # they come with the next read
            if cursor == b"0-0":
                return

    async def read(self, count: int) -> list[StreamEntry]:
        """What was delivered to this consumer before and not finished; then what is new, waiting a little for it."""
        if self._no_room:
            return await self._read_without_group(count)
        if self._pending:
            unfinished = await self._read("0", count, block=None)
            self._pending = bool(unfinished)
            if unfinished:
                return unfinished
        return await self._read(">", count, block=BLOCK_MS)

    async def _read_without_group(self, count: int) -> list[StreamEntry]:
        """From the first entry on; another worker may read the same, and Postgres takes each once."""
        answer: Any = await self._redis.xrange(self.name, count=count)
        if not answer and self._no_room:
            raise self._no_room  # it is not the ledger that fills Redis
        return [StreamEntry(entry_id.decode(), fields) for entry_id, fields in answer]

    async def done(self, entries: Sequence[StreamEntry]) -> None:
        """The ledger holds them: out of the stream, and then out of the group's list of what is under way.

        One after the other: what is deleted but not acknowledged is found again, what is acknowledged but not deleted
        never is. Not in a transaction, since a full Redis refuses whatever comes in one.
        """
        ids = [entry.id for entry in entries]
        await self._redis.xdel(self.name, *ids)
        await self._redis.xack(self.name, LEDGER_GROUP, *ids)
        if self._no_room:
            await self._make_group()

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
