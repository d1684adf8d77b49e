from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.e2e.ledger.world import World, world_of


@pytest.fixture
async def world(database_url: str, redis_url: str) -> AsyncIterator[World]:
    """A ledger between a real Redis and a real Postgres."""
    async with world_of(database_url, redis_url) as world:
        yield world
