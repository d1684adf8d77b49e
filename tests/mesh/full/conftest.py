"""One world for all tests here, with what is rendered for its policy in it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.mesh.full.load import wait_for_all
from tests.mesh.world.api_server import TOOLS
from tests.mesh.world.network import unavailable
from tests.mesh.world.world import World, running_world


@pytest.fixture(scope="session")
def world() -> Iterator[World]:
    reason = unavailable() or ("" if TOOLS.is_dir() else f"{TOOLS} is empty: run `make mesh-tools`")
    if reason:
        pytest.skip(reason)
    with running_world() as world:
        world.apply_rendered()
        world.wait_ready()
        wait_for_all(world, 200)
        yield world
