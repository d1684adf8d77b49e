"""Revocations over a real Postgres and a real Redis, as a check and as an operator see them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import LiteralString

from pydantic import SecretStr
from redis.asyncio import Redis

from ext_authz.clock import SystemClock
from ext_authz.db import redis, redis_keys
from ext_authz.db.migrate import migrate
from ext_authz.db.postgres import connect
from ext_authz.revocation.copy import RevocationCopy
from ext_authz.revocation.entry import Entry, Kind
from ext_authz.revocation.mirror import Mirror
from ext_authz.revocation.operations import Operations
from ext_authz.revocation.shards import Shards
from ext_authz.revocation.store import RevocationStore
from ext_authz.settings import StoreSettings


def entry(value: str, kind: Kind = Kind.TOKEN, not_before: datetime | None = None, hours: float = 1) -> Entry:
    expires_at = datetime.now(UTC) + timedelta(hours=hours)
    return Entry(kind=kind, issuer="demo", value=value, not_before=not_before, expires_at=expires_at)


class World:
    """Both stores, and the parts under test."""

    def __init__(self, database_url: str, redis_url: str) -> None:
        self.database_url = database_url
        self.redis: Redis = redis.connect(redis_url, timeout=2)
        self.copy = RevocationCopy(self.redis)
        self.store = RevocationStore(SecretStr(database_url), 5)
        settings = StoreSettings.model_validate({"database_url": database_url, "redis_url": redis_url})
        self.shards = Shards(redis_url, [self.redis], 5)
        self.operations = Operations(self.store, self.shards, (), settings)

    async def sql(self, statement: LiteralString, *values: object) -> None:
        """An operator at the psql prompt."""
        async with await connect(self.database_url) as connection:
            await connection.execute(statement, values)

    async def held(self, entry_id: str) -> str | None:
        """What a check finds in Redis: up to which second it hits what was issued, "1" for ever; None for nothing."""
        value = await self.redis.get(redis_keys.revocation(entry_id))
        if not isinstance(value, bytes) or value.startswith(b"-"):
            return None
        return value.decode().partition(":")[2] or "1"

    async def complete(self) -> bool:
        """Whether a check believes this Redis."""
        return (await self.copy.status()).complete

    def mirror(
        self,
        *,
        poll: float = 0.05,
        copy: RevocationCopy | None = None,
        direct_url: str | None = None,
        blocks: int = 1,
    ) -> Mirror:
        """Reads the table in many small pages."""
        url, direct = SecretStr(self.database_url), SecretStr(direct_url) if direct_url else None
        return Mirror(url, [copy or self.copy], SystemClock(), poll=poll, direct_url=direct, blocks=blocks)


@asynccontextmanager
async def world_of(database_url: str, redis_url: str) -> AsyncIterator[World]:
    await migrate(database_url)
    world = World(database_url, redis_url)
    await world.store.start()
    try:
        yield world
    finally:
        await world.store.stop()
        await world.shards.close()
