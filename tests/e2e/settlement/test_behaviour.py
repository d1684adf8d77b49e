"""The behaviour suite over Redis, through the script and the batches."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.e2e.settlement.redis_world import RedisWorld
from tests.unit.settlement.suite import SettlementSuite


@pytest.fixture
async def world(redis_url: str) -> AsyncIterator[RedisWorld]:
    async with RedisWorld(redis_url) as world:
        yield world


class TestRedisSettlement(SettlementSuite):
    pass
