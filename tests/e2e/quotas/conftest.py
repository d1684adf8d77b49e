"""Counters in a real Redis as checks count them, and the commands over them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any, LiteralString

import psycopg
import pytest
from click.testing import CliRunner, Result

from ext_authz.db.migrate import migrate
from ext_authz.db.redis import connected
from ext_authz.policy.load import load_policy
from ext_authz.quotas.commands import quota
from ext_authz.quotas.counters import Counter, counter_of
from ext_authz.quotas.store import PATIENCE, QuotaStore
from ext_authz.settlement.model import Outcome, QuotaRequest
from tests.e2e.billing.world import copied
from tests.e2e.settlement.redis_world import RedisWorld
from tests.unit.policy.writing import GOOD, write
from tests.unit.settlement.world import left, settle

POLICY = GOOD.replace(
    "  user: {key: [user], rate: 10/minute}\n",
    """  user: {key: [user], rate: 10/minute}
  burst: {key: [user], rate: 10/minute, algorithm: gcra}
  day: {key: [user], rate: 3/day, algorithm: calendar}
""",
)


class Quotas:
    """What one user has left of the limit `day`: 3 a day; commands run in threads of this process."""

    def __init__(self, world: RedisWorld, store: QuotaStore, database_url: str, policy: Path) -> None:
        self.world = world
        self.store = store
        self.database_url = database_url
        self.environ = {
            "TOLLGATE_DATABASE_URL": database_url,
            "TOLLGATE_REDIS_URL": world.url,
            "TOLLGATE_POLICY": str(policy),
        }
        self.counter = counter_of(load_policy(policy, {}), "day", [("user", "demo:alice")])

    async def run(self, *arguments: str) -> Result:
        """`tollgate quota ...`."""
        return await asyncio.to_thread(CliRunner().invoke, quota, arguments, env=self.environ)

    async def boost(self, amount: int = 5, lasts: str = "1h") -> Result:
        given = "--of", "user=demo:alice", "--expires-in", lasts, "--reason", "a launch", "--by", "root"
        return await self.run("boost", "day", str(amount), *given)

    async def reset(self) -> Result:
        return await self.run("reset", "day", "--of", "user=demo:alice", "--reason", "a bug of ours", "--by", "root")

    async def calls(self, number: int) -> int:
        """How many of them are allowed."""
        answers = [await settle(self.world, taking(self.counter)) for _ in range(number)]
        return sum(answer.outcome is Outcome.OK for answer in answers)

    async def left(self) -> int:
        return (await left(self.world, taking(self.counter)))[0]

    def sql(self, query: LiteralString, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            cursor = connection.execute(query, values)
            return cursor.fetchall() if cursor.description else []


def taking(counter: Counter, limit: int = 3) -> QuotaRequest:
    """As a check takes one from it."""
    return QuotaRequest(counter.key, counter.algorithm, limit, counter.window_ms, 0)


@pytest.fixture(scope="module")
def migrated(postgres_server: str) -> Iterator[str]:
    with copied(postgres_server) as url:
        asyncio.run(migrate(url))
        yield url


@pytest.fixture
async def quotas(redis_url: str, postgres_server: str, migrated: str, tmp_path: Path) -> AsyncIterator[Quotas]:
    with copied(postgres_server, migrated) as url:
        async with RedisWorld(redis_url) as world, connected(redis_url, shards=1, seconds=PATIENCE) as clients:
            yield Quotas(world, QuotaStore(clients), url, write(tmp_path, POLICY))
