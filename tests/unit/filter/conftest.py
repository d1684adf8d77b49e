from __future__ import annotations

import pytest

from tests.unit.filter.server import Server


@pytest.fixture
def server() -> Server:
    return Server()
