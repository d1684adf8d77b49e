"""The ledger between a real Redis and a real Postgres."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from itertools import chain
from typing import Any, LiteralString

import msgspec
from pydantic import SecretStr
from redis.asyncio import Redis

from ext_authz.clock import SystemClock
from ext_authz.db import redis, redis_keys
from ext_authz.db.migrate import migrate
from ext_authz.db.postgres import connect
from ext_authz.db.redis_keys import LEDGER_GROUP
from ext_authz.ledger.event import Event, encode
from ext_authz.ledger.worker import UsageWorker
from tests.waiting import running, until

STREAM = redis_keys.events()


def event(**fields: str) -> Event:
    usual = Event(decision_id=str(uuid.uuid4()), client="shop", model="sentiment", route="infer", subject="sub")
    return msgspec.structs.replace(usual, **fields)


class World:
    """Both ends of the ledger."""

    def __init__(self, database_url: str, redis_url: str) -> None:
        self.database_url = database_url
        self.redis_url = redis_url
        self.redis: Redis = redis.connect(redis_url, timeout=5)

    async def record(self, *events: Event, outcome: int = 0) -> None:
        """As the settlement does."""
        await self.record_raw(*({"e": encode(event), "o": outcome} for event in events))

    async def record_raw(self, *entries: Mapping[str, object]) -> None:
        async with self.redis.pipeline(transaction=False) as pipeline:
            for fields in entries:
                pipeline.execute_command("XADD", STREAM, "*", *chain.from_iterable(fields.items()))
            await pipeline.execute()

    async def sql(self, query: LiteralString, *values: object) -> list[tuple[Any, ...]]:
        async with await connect(self.database_url) as connection:
            return await (await connection.execute(query, values)).fetchall()

    async def make_older(self, event: Event, hours: int) -> None:
        """A row that has been in the ledger for so long."""
        query = "UPDATE usage_events SET occurred_at = now() - make_interval(hours => %s) WHERE decision_id = %s"
        async with await connect(self.database_url) as connection:
            await connection.execute(query, (hours, event.decision_id))

    async def moved(self) -> int:
        """Rows in the ledger."""
        ((rows,),) = await self.sql("SELECT count(*) FROM usage_events")
        return int(rows)

    async def rejected(self) -> list[str]:
        return [reason for (reason,) in await self.sql("SELECT reason FROM usage_rejects ORDER BY id")]

    async def drained(self) -> bool:
        """Nothing is left in the stream, and nobody holds anything."""
        if await self.redis.xlen(STREAM):
            return False
        groups: Any = await self.redis.xinfo_groups(STREAM)
        return [group["pending"] for group in groups if group["name"] == LEDGER_GROUP.encode()] == [0]

    def worker(
        self, name: str = "worker", *, batch: int = 100, adopt: float = 30.0, records_keep: int = 0
    ) -> UsageWorker:
        url, clock = SecretStr(self.database_url), SystemClock()
        return UsageWorker(url, [self.redis], clock, name=name, batch=batch, adopt=adopt, records_keep=records_keep)


class Process:
    """`tollgate usage-worker`, to be killed."""

    def __init__(self, world: World, name: str, batch: int, settings: Mapping[str, str]) -> None:
        environ = {
            **os.environ,
            "TOLLGATE_DATABASE_URL": world.database_url,
            "TOLLGATE_REDIS_URL": world.redis_url,
            "TOLLGATE_USAGE_BATCH": str(batch),
            **settings,
        }
        command: Sequence[str] = [sys.executable, "-m", "ext_authz", "usage-worker", "--name", name]
        self._process = subprocess.Popen(command, env=environ)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(20)


@contextmanager
def process(world: World, name: str = "worker", batch: int = 100, **settings: str) -> Iterator[Process]:
    started = Process(world, name, batch, settings)
    try:
        yield started
    finally:
        started.kill()


@asynccontextmanager
async def world_of(database_url: str, redis_url: str) -> AsyncIterator[World]:
    await migrate(database_url)
    world = World(database_url, redis_url)
    try:
        yield world
    finally:
        await world.redis.aclose()


async def moved(world: World, *events: Event) -> None:
    """Recorded, and moved to Postgres."""
    await world.record(*events)
    async with running(world.worker()):
        await until(world.drained)
