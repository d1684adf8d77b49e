"""RedisSettlement with a real Redis around it, as the behaviour suite wants it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisDown

from ext_authz import redis_keys
from ext_authz.settlement.model import Ask
from ext_authz.settlement.redis import RedisSettlement
from tests.unit.settlement.world import ANONYMOUS, LEDGER_MAX, PostgresRevocations

TIMEOUT = 0.25


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what another process or task brings about; the pause only spares the processor."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - nobody could set an event
            await asyncio.sleep(0.005)


class RedisWorld:
    """Use as an asynchronous context: connects, and says that this Redis is complete."""

    def __init__(self, url: str, *, seed: str = "", timeout: float = TIMEOUT, ledger_max: int = LEDGER_MAX) -> None:
        """`seed` is the URL that the settlement gets, where it is another node of the cluster than the shard's."""
        self.url = url
        # Any: its types allow for every answer that there is. Retries: tests kill servers and connections.
        self.client: Any = Redis.from_url(url, retry=Retry(NoBackoff(), 3), retry_on_error=[RedisDown])
        self.postgres = PostgresRevocations()
        self.settlement = RedisSettlement(
            seed or url, timeout=timeout, ledger_max=ledger_max, revoked_in_postgres=self.postgres
        )

    async def __aenter__(self) -> RedisWorld:
        await self.settlement.start()
        await self.set_complete(complete=True)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.settlement.stop()
        await self.client.aclose()

    async def advance(self, seconds: float) -> None:
        """Redis' clock cannot be set: move what it remembers into the past instead."""
        async for key in self.client.scan_iter(match=redis_keys.counter("*")):
            value = (await self.client.get(key)).decode()
            end, colon, used = value.partition(":")
            moved = (
                f"{int(end) - round(seconds * 1000)}:{used}" if colon else str(int(end) - round(seconds * 1_000_000))
            )
            await self.client.set(key, moved, keepttl=True)

    async def revoke(self, entry_id: str, value: int = 1) -> None:
        await self.client.set(redis_keys.revocation(entry_id), value)

    async def set_complete(self, *, complete: bool) -> None:
        run_id = (await self.client.info("server"))["run_id"]
        await self.client.set(redis_keys.complete(), run_id if complete else "another process")

    async def fill_ledger(self, events: int) -> None:
        async with self.client.pipeline() as pipeline:
            pipeline.delete(redis_keys.events())
            for _ in range(events):
                pipeline.xadd(redis_keys.events(), {"e": "{}", "o": 0})
            await pipeline.execute()

    async def ledger(self) -> list[tuple[bytes, int]]:
        # What was recorded before goes to Redis no later than this.
        await self.settlement.settle(Ask(ANONYMOUS.revocation, 0, (), b""))
        entries = await self.client.xrange(redis_keys.events())
        return [(fields[b"e"], int(fields[b"o"])) for _, fields in entries]
