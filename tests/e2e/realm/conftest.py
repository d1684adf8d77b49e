"""The realm under test."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from devstack.realm.keys import KeyRing
from devstack.realm.sessions import open_database
from ext_authz.clock import SystemClock
from tests.e2e.realm.client import RealmClient
from tests.e2e.realm.serving import on_a_thread
from tests.fakes import FakeClock
from tests.realm_admin import RealmAdmin


@pytest.fixture(scope="module", params=["embedded", pytest.param("keycloak", marks=pytest.mark.keycloak)])
def idp(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealmClient]:
    """Tests of what both do run over both."""
    with ExitStack() as opened:
        if request.param == "keycloak":
            url = request.getfixturevalue("keycloak").url
        else:
            url = opened.enter_context(on_a_thread(tmp_path_factory.mktemp("embedded"), SystemClock()))
        yield opened.enter_context(RealmClient(url))


@pytest.fixture
def admin(idp: RealmClient) -> Iterator[RealmAdmin]:
    with RealmAdmin(idp.base_url) as client:
        yield client


@pytest.fixture
def clock() -> FakeClock:
    """Starts at the machine's time, as PyJWT has no other clock."""
    return FakeClock(time.time())


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture(scope="package")
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
