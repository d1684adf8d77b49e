"""A slot of a Redis Cluster on its way from one node to another, key by key (CLUSTER SETSLOT, MIGRATE).

The source answers ASK to every call: the only key that the script declares, the hash tag, never exists. All others are
left undeclared on purpose: a token that is not revoked has no key, and of declared keys one that is missing makes the
source answer ASK and the target TRYAGAIN, until the last key has moved.

So we go to the target, and what these checks count by goes there first: MIGRATE moves each key whole, it is on one of
the two nodes at any time, and a key that the source does not hold cannot appear there any more. What the target holds
then is all there is: no limit is exceeded. The revocations stay where they are: neither node is believed to hold all of
them until a rebuild after the migration, so Postgres is asked. docs/adr/0003-limit-algorithm.md, Redis Cluster.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress

from redis.exceptions import AskError

from ext_authz.db import redis_keys
from ext_authz.settlement.connection import Command, Link, link_at

MIGRATE_MS = 1000
"""Longest silence between the two nodes."""


class Migration:
    """The way to the target, for as long as the source sends us there."""

    def __init__(self, url: str, shard: int) -> None:
        self._url = url
        self._shard = shard
        self._target: Link | None = None
        self._address = ("", 0)
        self._one_by_one = asyncio.Lock()

    async def bring(self, source: Link, ask: AskError, counters: Iterable[str]) -> Link:
        """Bring what a batch counts by to the target; returns the link to it, for calls that are `asking`.

        Raises:
            RedisError, OSError: a node gave no answer, or the ACL does not let us MIGRATE.
        """
        address = ask.host or source.host, ask.port
        async with self._one_by_one:
            target = await self._reach(source, address)
        keys = {redis_keys.events(self._shard), redis_keys.alive(self._shard)}
        keys.update(redis_keys.counter(key, self._shard) for key in counters)
        with suppress(AskError):  # the source does not even hold the first of them
            await source.ask(("MIGRATE", *address, "", 0, MIGRATE_MS, *source.credentials, "KEYS", *keys))
        return target

    async def close(self) -> None:
        target, self._target = self._target, None
        if target:
            await target.close()

    async def _reach(self, source: Link, address: tuple[str, int]) -> Link:
        if self._target and self._address == address and not self._target.ended.done():
            return self._target
        await self.close()
        target = link_at(self._url, self._shard, address)
        try:
            await target.open()
            await self._distrust(source, target)
        except BaseException:
            await target.close()
            raise
        self._target, self._address = target, address
        return target

    async def _distrust(self, source: Link, target: Link) -> None:
        """Some of the revocations are here and some there. Should the slot stay, or come back, they are read anew."""
        forget: Command = ("DEL", redis_keys.complete(self._shard))
        with suppress(AskError):  # it has moved
            await source.ask(forget)
        await target.ask(("ASKING",), forget)
