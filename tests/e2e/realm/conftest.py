"""The realm under test."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from devstack.realm.keys import KeyRing
from devstack.realm.sessions import open_database
from tests.e2e.realm.client import RealmClient
from tests.e2e.realm.serving import on_a_thread
from tests.fakes import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    """Starts at the machine's time, as PyJWT has no other clock."""
    return FakeClock(time.time())


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture(scope="session")
def generated_keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state directory with keys and nothing else: making RSA keys is what takes a new realm its time."""
    directory = tmp_path_factory.mktemp("keys")
    database = open_database(directory)
    KeyRing(database)
    database.close()
    return directory


@pytest.fixture
def realm(state: Path, clock: FakeClock, generated_keys: Path) -> Iterator[RealmClient]:
    """The embedded realm with a clock that only the test moves."""
    shutil.copytree(generated_keys, state)
    with on_a_thread(state, clock) as url, RealmClient(url) as client:
        yield client
