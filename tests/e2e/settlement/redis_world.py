"""RedisSettlement with a real Redis around it, as the behaviour suite wants it."""

from __future__ import annotations

import re
from typing import Any, Self

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisDown

from ext_authz.clock import SystemClock
from ext_authz.db import redis_keys
from ext_authz.settlement.model import NO_IDS, SettleRequest
from ext_authz.settlement.redis import RedisSettlement
from tests.unit.settlement.world import LEDGER_MAX, Knowledge, PostgresRevocations

PATIENCE = 5.0
"""The settlement's timeout where it is not what is tested: a busy machine is no outage."""


class RedisWorld:
    """Use as an asynchronous context: connects, and says that every shard is complete."""

    def __init__(
        self, url: str, *, seed: str = "", timeout: float = PATIENCE, ledger_max: int = LEDGER_MAX, shards: int = 1
    ) -> None:
        """`seed` is the URL that the settlement gets, where it is another node of the cluster than the shard's."""
        self.url = url
        self.client = self._connect(url)
        self.shards = range(shards)
        self.postgres = PostgresRevocations()
        self.known = Knowledge()
        self.settlement = RedisSettlement(
            seed or url,
            timeout=timeout,
            ledger_max=ledger_max,
            revoked_in_postgres=self.postgres,
            known=self.known,
            clock=SystemClock(),
            shards=shards,
        )

    async def __aenter__(self) -> Self:
        await self.settlement.start()
        await self.set_complete(complete=True)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.settlement.stop()
        await self.client.aclose()

    async def advance(self, seconds: float) -> None:
        """Redis' clock cannot be set: move what it remembers into the past instead."""
        async for key in self.client.scan_iter(match="{tg*}:l:*"):
            stored = (await self.client.get(key)).decode()
            time, rest = re.fullmatch(r"~?(\d+)(.*)", stored).groups()  # type: ignore[union-attr]
            moved = int(time) - round(seconds * (1000 if rest else 1_000_000))
            await self.client.set(key, f"{'~' * stored.startswith('~')}{moved}{rest}", keepttl=True)

    async def now_ms(self) -> int:
        seconds, micros = await self.client.time()
        return int(seconds) * 1000 + int(micros) // 1000

    async def revoke(self, entry_id: str, value: int = 1) -> None:
        held = "1" if entry_id[:1] in "ts" else f"1:{value}"
        for shard in self.shards:
            await self.client.set(redis_keys.revocation(entry_id, shard), held)

    async def set_complete(self, *, complete: bool) -> None:
        for shard in self.shards:
            run_id = await self._run_id(shard)
            await self.client.set(redis_keys.complete(shard), run_id if complete else "another process")

    async def fill_ledger(self, events: int) -> None:
        async with self.client.pipeline() as pipeline:
            pipeline.delete(redis_keys.events())
            for _ in range(events):
                pipeline.xadd(redis_keys.events(), {"e": "{}", "o": 0})
            await pipeline.execute()

    async def ledger(self) -> list[tuple[bytes, int]]:
        # What was recorded before goes to Redis no later than this.
        await self.settlement.settle(SettleRequest(NO_IDS, 0, (), b""))
        entries = [entry for shard in self.shards for entry in await self.client.xrange(redis_keys.events(shard))]
        return [(fields[b"e"], int(fields[b"o"])) for _, fields in entries]

    # Any: the client's types allow for every answer that there is. Retries: tests kill servers and connections.

    def _connect(self, url: str) -> Any:  # noqa: ANN401
        return Redis.from_url(url, retry=Retry(NoBackoff(), 3), retry_on_error=[RedisDown])

    async def _run_id(self, shard: int) -> Any:  # noqa: ANN401
        return (await self.client.info("server"))["run_id"]


class ClusterWorld(RedisWorld):
    """The shards are on several nodes."""

    def _connect(self, url: str) -> Any:  # noqa: ANN401
        return RedisCluster.from_url(url)

    async def now_ms(self) -> int:
        seconds, micros = await self.client.time(target_nodes=self.client.get_node_from_key(redis_keys.shard_tag()))
        return int(seconds) * 1000 + int(micros) // 1000

    async def _run_id(self, shard: int) -> Any:  # noqa: ANN401
        await self.client.initialize()
        node = self.client.get_node_from_key(redis_keys.shard_tag(shard))
        return (await self.client.info("server", target_nodes=node))["run_id"]
