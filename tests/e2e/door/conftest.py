"""One whole stack for this folder, and a caller who knocks at its door."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ext_authz.stack.stack import Stack, running_stack
from tests.e2e.door.visitor import Visitor


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """On free ports, with a state directory of its own."""
    with running_stack(tmp_path_factory.mktemp("door")) as running:
        yield running


@pytest.fixture
def visitor(stack: Stack) -> Iterator[Visitor]:
    """Calls through Envoy; every test has a session of its own."""
    with Visitor(stack) as someone:
        yield someone
