"""The copy of the revocations in Redis, in every shard. Only these four scripts write it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct
from redis.asyncio import Redis

from ext_authz import redis_keys
from ext_authz.revocation.change import Change

LEASE_MS = 2000
"""A rebuild that writes nothing for so long is taken over."""
CHUNK = 250
"""Rows per script call: Redis serves nobody else meanwhile, measured 1.1 to 1.4 ms."""


class Status(Struct, frozen=True):
    """What one Redis process says about itself."""

    run_id: str
    lineage: str
    """Replication id: changes when a replica takes over, so also when the old primary comes back with less."""
    eviction: str
    marker: str

    @property
    def keeps_keys(self) -> bool:
        """Every other policy may drop a revocation, which all have an expiry."""
        return self.eviction == "noeviction"

    @property
    def complete(self) -> bool:
        return self.marker == self.run_id


class RevocationCopy:
    """Every method raises RedisError when Redis gives no answer."""

    def __init__(self, *shards: Redis) -> None:
        """One client per shard, each of the node that holds it."""
        self.shards = range(len(shards))
        self._redis = shards
        self._apply = shards[0].register_script(_script("apply"))
        self._status = shards[0].register_script(_script("status"))
        self._begin = shards[0].register_script(_script("begin"))
        self._finish = shards[0].register_script(_script("finish"))

    async def apply(self, changes: Sequence[Change]) -> None:
        """Bring these rows into every shard; a shard that gives no answer keeps none of the others waiting."""
        applied = (self.apply_to(shard, changes) for shard in self.shards)
        for failure in await asyncio.gather(*applied, return_exceptions=True):
            if failure:
                raise failure

    async def apply_to(self, shard: int, changes: Sequence[Change]) -> None:
        """Bring these rows into one shard. Order and repetition do not matter."""
        for start in range(0, len(changes), CHUNK):
            await self._write(shard, changes[start : start + CHUNK], nonce="")

    async def status(self, shard: int) -> Status:
        answer = await self._status(keys=[redis_keys.complete(shard)], client=self._redis[shard])
        return Status(*(part.decode() for part in answer))

    async def begin(self, shard: int, nonce: str, found: Status, *, last_nonce: str) -> bool:
        """Take the marker away and start over; False when somebody else is at it."""
        keys = [redis_keys.complete(shard), redis_keys.rebuilding(shard)]
        args: list[str | int] = [nonce, LEASE_MS, found.marker, last_nonce]
        return bool(await self._begin(keys=keys, args=args, client=self._redis[shard]))

    async def fill(self, shard: int, nonce: str, changes: Sequence[Change]) -> bool:
        """One chunk of a rebuild; False when the nonce is gone."""
        return await self._write(shard, changes, nonce)

    async def finish(self, shard: int, nonce: str, found: Status) -> bool:
        """Set the marker; False when anything may have been lost since `found`."""
        keys = [redis_keys.complete(shard), redis_keys.rebuilding(shard)]
        args = [nonce, found.run_id, found.lineage]
        return bool(await self._finish(keys=keys, args=args, client=self._redis[shard]))

    async def distrust(self, shard: int) -> None:
        """Take the marker away: checks ask Postgres."""
        await self._redis[shard].delete(redis_keys.complete(shard))

    async def _write(self, shard: int, changes: Sequence[Change], nonce: str) -> bool:
        keys: list[str] = [redis_keys.rebuilding(shard)]
        args: list[str | int] = [nonce, LEASE_MS]
        for row in changes:
            keys += (redis_keys.revocation(row.id, shard), redis_keys.revision(row.id, shard))
            args += (row.revision, row.value, row.expires_ms)
        return bool(await self._apply(keys=keys, args=args, client=self._redis[shard]))


def _script(name: str) -> str:
    return Path(__file__).with_name(f"{name}.lua").read_text(encoding="utf-8")
