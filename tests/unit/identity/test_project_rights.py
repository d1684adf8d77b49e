"""Roles by projects of a GitLab: levels, visibilities, and whose cached tokens are read again."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from ext_authz.decision import Principal
from ext_authz.errors import Unavailable
from ext_authz.identity.authenticator import TokenAuthenticator
from ext_authz.identity.identity import Identity
from ext_authz.identity.project_rights import Listener, Project, access_level, may_read, roles_of
from ext_authz.policy.issuers import ProjectRights
from tests.fakes import FakeClock, FakeJwks
from tests.tokens import RSA
from tests.unit.identity.test_gitlab import ISSUER, JOB, USER, signed

RIGHTS = ProjectRights(
    projects={"team/a": ("gitlab:team/a", "mlflow:a"), "team/b": ("gitlab:team/b",)},
    levels={"read": 20, "call": 20, "create": 30, "update": 30, "delete": 40},
    visible={"internal": frozenset({"read"}), "public": frozenset({"read", "call"})},
    stale=600,
)
ACTIONS = {
    0: set(),
    10: set(),
    15: set(),
    20: {"read", "call"},
    30: {"read", "call", "create", "update"},
    40: {"read", "call", "create", "update", "delete"},
    50: {"read", "call", "create", "update", "delete"},
}
OPEN = {"private": set(), "internal": {"read"}, "public": {"read", "call"}}


@pytest.mark.parametrize("visibility", OPEN)
@pytest.mark.parametrize("level", ACTIONS)
def test_actions(visibility: str, level: int) -> None:
    project = Project(visibility, {"42": level, "7": 50})
    found = roles_of("42", RIGHTS, {"team/b": project})
    assert found == {f"gitlab:team/b:{action}" for action in ACTIONS[level] | OPEN[visibility]}


def caller(subject: str, issuer: str = "gitlab", grant: str = "") -> Identity:
    principal = Principal(f"https://{issuer}.example", subject, "web", (), "t")
    return replace(Identity(principal, issuer, "", 1, 2.0, ("m",), frozenset(), frozenset()), grant=grant)


OTHERS = {
    "no credential": None,
    "of another issuer": caller("42", "lab"),
    "an API token": caller("42", grant="g"),
    "a job": caller("project_path:team/a:ref_type:branch:ref:main"),
}
SHARINGHUB = {0: 0, 5: 0, 10: 1, 15: 1, 20: 2, 30: 3, 40: 4, 50: 4}


@pytest.mark.parametrize("visibility", OPEN)
@pytest.mark.parametrize("level", SHARINGHUB)
def test_access_levels_of_sharinghub(visibility: str, level: int) -> None:
    project = Project(visibility, {"42": level})
    found = access_level(caller("42"), "gitlab", project, RIGHTS)
    assert found == max(SHARINGHUB[level], 2 if OPEN[visibility] else 0)
    assert may_read(caller("42"), "gitlab", project, RIGHTS) == (found > 1)


@pytest.mark.parametrize("who", OTHERS)
@pytest.mark.parametrize("visibility", OPEN)
def test_who_is_not_the_user_reads_what_is_public_and_no_more(who: str, visibility: str) -> None:
    project = Project(visibility, {"42": 50})
    rights = replace(RIGHTS, visible={each: frozenset({"read", "delete"}) for each in OPEN})
    assert access_level(OTHERS[who], "gitlab", project, rights) == (2 if visibility == "public" else 0)
    closed = replace(RIGHTS, visible={"public": frozenset({"call"})})
    assert access_level(OTHERS[who], "gitlab", project, closed) == 0


def test_what_roles_begin_with() -> None:
    found = roles_of("42", RIGHTS, {"team/a": Project("internal", {}), "team/c": Project("public", {})})
    assert found == {"gitlab:team/a:read", "mlflow:a:read"}


class Known:
    """As `owners.projects.KnownProjects`, of what a test puts in."""

    def __init__(self) -> None:
        self.rights = {"42": frozenset({"gitlab:team/a:read"})}
        self.asked = 0
        self.away = False
        self.listeners: list[Listener] = []

    def roles(self, issuer: str, user: str) -> frozenset[str]:
        self.asked += 1
        if self.away:
            raise Unavailable("postgres", "not read yet")
        return self.rights.get(user, frozenset()) if issuer == "gitlab" else frozenset()

    def listen(self, listener: Listener) -> None:
        self.listeners.append(listener)

    def tell(self, *users: str) -> None:
        for listener in self.listeners:
            listener("gitlab", frozenset(users) or None)


class World:
    def __init__(self) -> None:
        self.known = Known()
        clock, fetch = FakeClock(), FakeJwks(RSA)
        self.authenticator = TokenAuthenticator([ISSUER], fetch=fetch, clock=clock, cache_size=10, projects=self.known)

    async def roles(self, token: str) -> set[str]:
        identity = await self.authenticator.authenticate((f"Bearer {token}",))
        assert set(identity.principal.roles) == identity.roles
        return set(identity.roles)


async def test_a_user_has_the_roles_of_the_projects_and_a_job_has_none() -> None:
    world = World()
    assert await world.roles(signed(USER)) == {"gitlab:team/a:read"}
    assert await world.roles(signed(USER, roles=["admin"])) == {"admin", "gitlab:team/a:read"}
    assert await world.roles(signed(USER, sub="43")) == set()
    assert await world.roles(signed(JOB)) == set()


async def test_a_cached_token_is_read_again_when_its_user_has_other_rights() -> None:
    world = World()
    alice, bob = signed(USER), signed(USER, sub="43")
    assert (await world.roles(alice), await world.roles(bob)) == ({"gitlab:team/a:read"}, set())
    world.known.rights = {"43": frozenset({"r"})}
    assert await world.roles(alice) == {"gitlab:team/a:read"}
    world.known.tell("42")
    assert (await world.roles(alice), await world.roles(bob)) == (set(), set())
    world.known.tell()
    assert (await world.roles(alice), await world.roles(bob)) == (set(), {"r"})
    asked = world.known.asked
    world.known.listeners[0]("another", None)
    assert await world.roles(bob) == {"r"}
    assert world.known.asked == asked


async def test_nobody_knows_yet() -> None:
    world = World()
    world.known.away = True
    with pytest.raises(Unavailable):
        await world.roles(signed(USER))
    assert await world.roles(signed(JOB)) == set()
