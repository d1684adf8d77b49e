from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from ext_authz.poller import state_checker
from tests.e2e.poller.world import World, issuer_of, world_of
from tests.fake_keycloak import FakeKeycloak, running_fake_keycloak


@pytest.fixture(autouse=True)
def _users_are_learned_of_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_checker, "LEARN", 0.1)


@pytest.fixture
def realm() -> Iterator[FakeKeycloak]:
    """A Keycloak that does what a test wants."""
    with running_fake_keycloak() as realm:
        yield realm


@pytest.fixture
async def world(realm: FakeKeycloak, database_url: str, redis_url: str) -> AsyncIterator[World]:
    async with world_of(database_url, redis_url, issuer_of(realm.url), ("console", "8Zk2qLw7")) as world:
        yield world
