from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.e2e.signals.world import Receiving, receiving


@pytest.fixture
async def console(database_url: str, redis_url: str) -> AsyncIterator[Receiving]:
    """The servers of the run; nothing is killed here."""
    async with receiving(database_url, redis_url) as console:
        yield console
