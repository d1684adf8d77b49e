"""What the tests of this folder share: each module has the `running` world of its own policy."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.e2e.render.world import World


@pytest.fixture
def world(running: World) -> World:
    """As if nothing had called yet."""
    running.forget()
    return running


@pytest.fixture
def caller(world: World) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=world.url, timeout=10) as client:
        yield client
