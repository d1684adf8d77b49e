from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.e2e.tokens.world import ALICE, World, policy_of, world_of


@pytest.fixture
async def world(database_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[World]:
    """Alice has signed in."""
    async with world_of(database_url, redis_url, policy_of(tmp_path)) as world:
        assert ALICE.identity is not None
        await world.service.signed_in(ALICE.identity)
        yield world
