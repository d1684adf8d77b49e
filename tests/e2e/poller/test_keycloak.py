"""What administrators and users do at a Keycloak, the embedded one and a real one, and what is in force afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import jwt
import pytest

from ext_authz.clock import SystemClock
from ext_authz.errors import Unavailable
from ext_authz.poller.admin_api import AdminApi
from ext_authz.poller.keycloak import Keycloak
from tests.e2e.poller.world import World, issuer_of, world_of
from tests.e2e.realm.serving import on_a_thread
from tests.keycloak import RunningKeycloak
from tests.realm_admin import CONSOLE, RealmAdmin
from tests.waiting import running, until


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningKeycloak]:
    with on_a_thread(tmp_path_factory.mktemp("realm"), SystemClock()) as url, RealmAdmin(url) as admin:
        yield RunningKeycloak(url, admin, Path())


@pytest.fixture(params=["embedded", pytest.param("keycloak", marks=pytest.mark.keycloak)])
def provider(request: pytest.FixtureRequest) -> RunningKeycloak:
    provider: RunningKeycloak = request.getfixturevalue(request.param)
    return provider


@pytest.fixture
async def world(provider: RunningKeycloak, database_url: str, redis_url: str) -> AsyncIterator[World]:
    async with world_of(database_url, redis_url, issuer_of(provider.url, "tollgate"), CONSOLE) as world:
        yield world


@pytest.fixture
async def real(keycloak: RunningKeycloak, database_url: str, redis_url: str) -> AsyncIterator[World]:
    async with world_of(database_url, redis_url, issuer_of(keycloak.url, "tollgate"), CONSOLE) as world:
        yield world


def signed_in(provider: RunningKeycloak, username: str) -> str:
    """A token."""
    form = {"grant_type": "password", "client_id": "web-app", "username": username, "password": username}
    answer = httpx.post(f"{provider.issuer}/protocol/openid-connect/token", data=form).raise_for_status().json()
    return str(answer["access_token"])


def claims(token: str) -> dict[str, Any]:
    return dict(jwt.decode(token, options={"verify_signature": False}))


class Subject:
    """A new user of the realm who has signed in, and whom the poller knows."""

    def __init__(self, world: World, provider: RunningKeycloak, *roles: str, groups: Iterable[str] = ()) -> None:
        self.name = provider.admin.user(*roles, groups=groups)
        self.raw = signed_in(provider, self.name)
        self.token = claims(self.raw)
        self.id: str = self.token["sub"]
        self._world = world

    async def known(self) -> None:
        await self._world.seen(self.id)
        await until(lambda: self.is_(enabled=True))

    async def is_(self, *, enabled: bool, roles: set[str] | None = None) -> bool:
        owner = await self._world.owner(self.id)
        return owner is not None and owner[0] is enabled and (roles is None or owner[1] == roles)

    async def is_revoked(self, kind: str = "u") -> bool:
        value = {"u": self.id, "s": self.token.get("sid"), "t": self.token["jti"]}[kind]
        return f"{kind}:main:{value}" in await self._world.revoked()


async def test_what_ends_every_token_of_a_user(world: World, provider: RunningKeycloak) -> None:
    admin = provider.admin
    async with running(world.poller()):
        disabled, deleted, reset, logged_out = (Subject(world, provider, "infer") for _ in range(4))
        for each in (disabled, deleted, reset, logged_out):
            await each.known()
        admin.change(disabled.name, enabled=False)
        admin.delete(deleted.name)
        admin.reset_password(reset.name, "another")
        admin.log_out(logged_out.name)
        for each in (disabled, deleted, reset, logged_out):
            await until(each.is_revoked)
        await until(lambda: disabled.is_(enabled=False))
        await until(lambda: deleted.is_(enabled=False, roles=set()))
        admin.change(disabled.name, enabled=True)
        await until(lambda: disabled.is_(enabled=True, roles={"infer"}))
        assert await disabled.is_revoked()
        ended = int(await world.not_before(f"u:main:{disabled.id}"))
        assert (
            ended <= claims(signed_in(provider, disabled.name))["iat"] + 1
        )  # so that who signs in a second later may call


async def test_a_session_that_an_administrator_ends(world: World, provider: RunningKeycloak) -> None:
    async with running(world.poller()):
        ended = Subject(world, provider, "infer")
        await ended.known()
        provider.admin.end_session(ended.token["sid"])
        await until(lambda: ended.is_revoked("s"))
        assert not await ended.is_revoked()


async def test_a_role_and_a_group_that_are_taken_away(world: World, provider: RunningKeycloak) -> None:
    async with running(world.poller()):
        direct, member, other = (
            Subject(world, provider, "infer", groups=["/team-vision"] * many) for many in (0, 1, 1)
        )
        for each in (direct, member, other):
            await each.known()
        provider.admin.remove_client_role(direct.name, "infer")
        await until(lambda: direct.is_(enabled=True, roles=set()))
        provider.admin.remove_client_role(member.name, "infer")
        provider.admin.leave(member.name, "/team-vision")
        await until(lambda: member.is_(enabled=True, roles=set()))
        assert await world.owner(member.id) == (True, set(), set())
        assert await world.owner(other.id) == (True, {"infer"}, {"/team-vision", "team-vision"})
        assert not any([await each.is_revoked() for each in (direct, member, other)])


@pytest.mark.keycloak
async def test_what_an_application_gives_up(real: World, keycloak: RunningKeycloak) -> None:
    async with running(real.poller()):
        logged_out, given_back = (Subject(real, keycloak, "infer") for _ in range(2))
        await logged_out.known()
        await asyncio.to_thread(_give_up, keycloak, logged_out, "logout")
        await asyncio.to_thread(_give_up, keycloak, given_back, "revoke")
        await until(lambda: logged_out.is_revoked("s"))
        await until(lambda: given_back.is_revoked("t"))


def _give_up(keycloak: RunningKeycloak, who: Subject, path: str) -> None:
    """Their application logs them out, or revokes an access token (RFC 7009)."""
    web, oidc = {"client_id": "web-app"}, f"{keycloak.issuer}/protocol/openid-connect"
    form = {"grant_type": "password", **web, "username": who.name, "password": who.name}
    tokens = httpx.post(f"{oidc}/token", data=form).raise_for_status().json()
    who.token = claims(tokens["access_token"])
    what = {"refresh_token": tokens["refresh_token"]} if path == "logout" else {"token": tokens["access_token"]}
    httpx.post(f"{oidc}/{path}", data={**web, **what}).raise_for_status()


@pytest.mark.keycloak
async def test_a_role_that_is_lost_in_any_way(real: World, keycloak: RunningKeycloak) -> None:
    admin, name = keycloak.admin, uuid4().hex[:8]
    gateway = admin.client_uuid("triton-gateway")
    infer = admin.get(f"/clients/{gateway}/roles/infer")
    admin.http.post("/roles", json={"name": f"whole-{name}", "composite": True}).raise_for_status()
    admin.http.post(f"/roles/whole-{name}/composites", json=[infer]).raise_for_status()
    for group in ("left", "emptied", "deleted"):
        admin.http.post("/groups", json={"name": f"{group}-{name}"}).raise_for_status()
        path = f"/groups/{admin.group_id(f'/{group}-{name}')}/role-mappings/clients/{gateway}"
        admin.http.post(path, json=[infer]).raise_for_status()
    async with running(real.poller()):
        direct, composite, other = (Subject(real, keycloak, *roles) for roles in (["infer"], [], ["infer"]))
        left, emptied, deleted = (
            Subject(real, keycloak, groups=(f"/{group}-{name}",)) for group in ("left", "emptied", "deleted")
        )
        admin.add_realm_role(composite.name, f"whole-{name}")
        losing = (direct, composite, left, emptied, deleted)
        for each in (*losing, other):
            await each.known()
            await until(lambda each=each: each.is_(enabled=True, roles={"infer"}))  # type: ignore[misc]
        admin.remove_client_role(direct.name, "infer")
        admin.http.request("DELETE", f"/roles/whole-{name}/composites", json=[infer]).raise_for_status()
        admin.leave(left.name, f"/left-{name}")
        emptied_id = admin.group_id(f"/emptied-{name}")
        path = f"/groups/{emptied_id}/role-mappings/clients/{gateway}"
        admin.http.request("DELETE", path, json=[infer]).raise_for_status()
        admin.http.delete(f"/groups/{admin.group_id(f'/deleted-{name}')}").raise_for_status()
        for each in losing:
            await until(lambda each=each: each.is_(enabled=True, roles=set()))  # type: ignore[misc]
        assert await other.is_(enabled=True, roles={"infer"})
        assert not any([await each.is_revoked() for each in losing])
        assert (await real.owner(left.id), await real.owner(deleted.id)) == ((True, set(), set()),) * 2
    for group in ("left", "emptied"):  # others compare all groups of this Keycloak
        admin.http.delete(f"/groups/{admin.group_id(f'/{group}-{name}')}").raise_for_status()


@pytest.mark.keycloak
async def test_a_role_that_is_deleted(real: World, keycloak: RunningKeycloak) -> None:
    admin, name = keycloak.admin, f"extra-{uuid4().hex[:8]}"
    gateway = admin.client_uuid("triton-gateway")
    admin.http.post(f"/clients/{gateway}/roles", json={"name": name}).raise_for_status()
    async with running(real.poller()):
        who = Subject(real, keycloak, "infer", name)
        await who.known()
        await until(lambda: who.is_(enabled=True, roles={"infer", name}))
        admin.http.delete(f"/clients/{gateway}/roles/{name}").raise_for_status()
        await until(lambda: who.is_(enabled=True, roles={"infer"}))


@pytest.mark.keycloak
async def test_a_service_account_is_what_its_group_is(real: World, keycloak: RunningKeycloak) -> None:
    admin, name = keycloak.admin, uuid4().hex[:8]
    gateway = admin.client_uuid("triton-gateway")
    infer = admin.get(f"/clients/{gateway}/roles/infer")
    parent = admin.http.post("/groups", json={"name": f"a b/{name}"}).headers["location"].rpartition("/")[2]
    admin.http.post(f"/groups/{parent}/children", json={"name": "robots"}).raise_for_status()
    mappings = f"/groups/{parent}/role-mappings/clients/{gateway}"
    admin.http.post(mappings, json=[infer]).raise_for_status()
    subject, path = f"service:{name}", f"/a b/{name}/robots"

    async def is_(*, enabled: bool, roles: set[str]) -> bool:
        return await real.owner(subject) == (enabled, roles, {path, "robots"} if enabled else set())

    await real.service_account(subject, path)
    async with running(real.poller()):
        await until(lambda: is_(enabled=True, roles={"infer"}))
        admin.http.request("DELETE", mappings, json=[infer]).raise_for_status()
        await until(lambda: is_(enabled=True, roles=set()))
        admin.http.delete(f"/groups/{parent}").raise_for_status()
        await until(lambda: is_(enabled=False, roles=set()))
        assert await real.revoked() & {f"u:main:{subject}"} == set()


@pytest.mark.keycloak
async def test_rights_that_are_missing_are_named(keycloak: RunningKeycloak, real: World) -> None:
    name = f"poor-{uuid4().hex[:8]}"
    client = {"clientId": name, "secret": name, "serviceAccountsEnabled": True, "publicClient": False}
    keycloak.admin.http.post("/clients", json=client).raise_for_status()
    poor = AdminApi(Keycloak(real.issuer, name, name, http=real.http, clock=SystemClock()))
    for ask, role in (
        (poor.events("admin-events", since=0), "view-events"),
        (poor.user(keycloak.admin.user_id("alice")), "view-users"),
        (poor.client(keycloak.admin.client_uuid("web-app")), "view-clients"),
        (poor.group("/team-vision"), "view-users"),
    ):
        with pytest.raises(Unavailable, match=f"give it the role {role} of the client realm-management"):
            await ask
    wrong = AdminApi(Keycloak(real.issuer, name, "wrong", http=real.http, clock=SystemClock()))
    with pytest.raises(Unavailable, match="set TOLLGATE_CONSOLE_CLIENT_SECRET"):
        await wrong.realm()
