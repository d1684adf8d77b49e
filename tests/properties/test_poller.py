"""Whatever happens at Keycloak, in whatever order its events appear, wherever polls fall in between, or a process ends:
afterwards `owners` says what Keycloak says, and whoever was disabled, deleted or given another password is revoked.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ext_authz.poller import state_checker
from ext_authz.poller.realm_events import OVERLAP
from tests.e2e.poller.world import World, issuer_of, world_of
from tests.fake_keycloak import CLIENT, FakeKeycloak, FakeUser, running_fake_keycloak

USERS = range(3)
ROLES = f"role-mappings/clients/{CLIENT}"

users = st.sampled_from(USERS)
roles = st.sampled_from(("infer", "admin"))
hidden = st.integers(0, OVERLAP // 1000 - 5)
"""Seconds for which an event is in a transaction that is not committed; those of a later one can be read."""
steps = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(("disable", "enable", "reset", "delete")), users, hidden),
        st.tuples(st.sampled_from(("give", "take")), users, roles, hidden),
        st.tuples(st.sampled_from(("group given", "group taken")), roles),
        st.tuples(st.just("commit")),
        st.tuples(st.just("poll")),
        st.tuples(st.just("check")),
        st.tuples(st.just("another process")),
        st.tuples(st.just("clear events")),
    ),
    max_size=12,
)


@dataclass
class Story:
    """What a realm goes through. `team` has everybody who exists."""

    realm: FakeKeycloak
    world: World
    uncommitted: list[dict[str, Any]] = field(default_factory=list)
    ended: set[str] = field(default_factory=set)
    names: list[str] = field(default_factory=lambda: [f"{uuid4()}" for _ in USERS])
    direct: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    team: set[str] = field(default_factory=set)

    async def begin(self) -> None:
        self.realm.users = {name: FakeUser(groups={"/team"}) for name in self.names}
        self.realm.admin_events, self.realm.user_events = [], []
        await self.world.rows("DELETE FROM leases RETURNING 1")
        await self.world.rows("DELETE FROM polled_owners RETURNING 1")
        await self.world.seen(*self.names)
        self.reader, self.checker = await self.world.parts()
        await self.quiet()

    async def quiet(self) -> None:
        """Everything that has happened is read and looked up."""
        await self.reader.read()
        await self.check()

    async def check(self) -> None:
        while await self.checker.check_some():
            pass

    async def do(self, name: str, *values: Any) -> None:  # noqa: ANN401 - drawn
        match name:
            case "poll":
                await self.reader.read()
            case "check":
                await self.check()
            case "another process":
                self.reader, self.checker = await self.world.parts()
            case "clear events":
                await self.reader.read()  # of what nobody has read, only states can be found
                self.realm.admin_events.clear()
            case _:
                self._change(name, *values)
        for user, state in self.realm.users.items():
            state.roles = self.direct[user] | self.team

    def _change(self, name: str, *values: Any) -> None:  # noqa: ANN401 - drawn
        match name:
            case "commit":
                self.commit()
            case "group given" | "group taken":
                (self.team.add if name == "group given" else self.team.discard)(values[0])
                self._happened("groups/g1/role-mappings/realm", "UPDATE", "REALM_ROLE_MAPPING", 0)
            case _ if self.names[values[0]] in self.realm.users:
                self._user(name, self.names[values[0]], *values[1:])

    def _user(self, name: str, user: str, *values: Any) -> None:  # noqa: ANN401 - drawn
        state, late = self.realm.users[user], values[-1]
        match name:
            case "disable" | "enable":
                state.enabled = name == "enable"
                written = f'{{"enabled": {str(state.enabled).lower()}}}'
                self._happened(f"users/{user}", "UPDATE", "USER", late, representation=written)
            case "reset":
                self._happened(f"users/{user}/reset-password", "ACTION", "USER", late)
            case "delete":
                del self.realm.users[user]
                self._happened(f"users/{user}", "DELETE", "USER", late)
            case "give" | "take":
                (self.direct[user].add if name == "give" else self.direct[user].discard)(values[0])
                self._happened(f"users/{user}/{ROLES}", "UPDATE", "CLIENT_ROLE_MAPPING", late)
        if name in ("disable", "reset", "delete"):
            self.ended.add(f"u:main:{user}")

    def _happened(self, path: str, operation: str, kind: str, late: int, **more: str) -> None:
        event = self.realm.happened(path, operation, kind, **more)
        event["time"] -= late * 1000
        if late:
            self.uncommitted.append(event)
            self.realm.admin_events.remove(event)

    def commit(self) -> None:
        """The latest first, even."""
        self.realm.admin_events.extend(reversed(self.uncommitted))
        self.uncommitted.clear()


async def tell(story: Story, drawn: list[tuple[Any, ...]]) -> None:
    await story.begin()
    for name, *values in drawn:
        await story.do(name, *values)
    story.commit()
    await story.quiet()
    for user in story.names:
        state = story.realm.users.get(user)
        expected = (state.enabled, state.roles, {"/team", "team"}) if state else (False, set(), set())
        assert await story.world.owner(user) == expected, user
    revoked = await story.world.revoked()
    assert story.ended == {each for each in revoked if each.removeprefix("u:main:") in story.names}
    assert await story.reader.read() is False


@pytest.fixture
def stage(database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[asyncio.Runner, World]]:
    """Of all stories: the tables are made once."""
    monkeypatch.setattr(state_checker, "BURST", 100_000)
    with running_fake_keycloak() as realm, asyncio.Runner() as runner:
        opened = world_of(database_url, redis_url, issuer_of(realm.url), ("console", "secret"))
        world = runner.run(opened.__aenter__())
        world.realm = realm
        yield runner, world
        runner.run(opened.__aexit__(None, None, None))


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drawn=steps)
def test_whatever_happens(stage: tuple[asyncio.Runner, World], drawn: list[tuple[Any, ...]]) -> None:
    runner, world = stage
    assert world.realm
    runner.run(tell(Story(world.realm, world), drawn))
