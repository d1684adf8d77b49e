"""The realm under test."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.devrealm.client import RealmClient
from tests.e2e.devrealm.serving import on_a_thread
from tests.fakes import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    """Starts at the machine's time, as PyJWT has no other clock."""
    return FakeClock(time.time())


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def realm(state: Path, clock: FakeClock) -> Iterator[RealmClient]:
    """The embedded realm with a clock that only the test moves."""
    with on_a_thread(state, clock) as url, RealmClient(url) as client:
        yield client
