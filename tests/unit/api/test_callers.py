"""Tokens that are tried one after the other at an interface for programs."""

from __future__ import annotations

from typing import cast

import httpx
import pytest
from msgspec.structs import replace
from starlette.applications import Starlette

from ext_authz.api.callers import Callers, actor_of
from ext_authz.api.oauth import OAuth
from ext_authz.decision import ANONYMOUS, Reason
from ext_authz.errors import Denied, Unavailable
from ext_authz.identity.authenticator import TokenAuthenticator
from ext_authz.identity.identity import Identity
from ext_authz.phases.flood_guard import FloodGuard
from ext_authz.policy.rights import Has, Not, Trait
from ext_authz.revocation.store import RevocationStore
from ext_authz.tokens.keys import SigningKeys
from ext_authz.tokens.service import TokenService
from tests.fakes import FakeClock
from tests.unit.render.policies import TOKENS

WHO = Identity(ANONYMOUS, "kc", "", 0, 1.0, (), frozenset(), frozenset())
GOOD, NEW, OWN = ("Bearer good",), ("Bearer new",), ("Bearer tgl_own",)


class Verified:
    """Knows one token, and verifies another one."""

    asked = 0

    def __init__(self) -> None:
        self.ended: list[str] = []

    def cached(self, authorization: str) -> Identity | None:
        return WHO if authorization == GOOD[0] else None

    async def authenticate(self, authorization: tuple[str, ...]) -> Identity:
        self.asked += 1
        if authorization in (GOOD, NEW, OWN):
            return WHO
        raise Denied(Reason.INVALID_CREDENTIAL, "token_malformed", "no")

    async def revoke_token(self, _: Identity, *, address: str) -> None:
        self.ended.append(address)

    async def jwks(self) -> object:
        raise Unavailable("postgres", "gone")

    async def revoked(self, asked: list[object]) -> list[None]:
        return [None for _ in asked]


class World:
    def __init__(self, guard: FloodGuard | None) -> None:
        self.clock, self.verified = FakeClock(), Verified()
        authenticator, store = cast("TokenAuthenticator", self.verified), cast("RevocationStore", self.verified)
        self.callers = Callers(TOKENS, authenticator, store, 1, guard=guard, clock=self.clock)

    async def refused(self, *authorization: str, address: str = "192.0.2.1") -> str:
        """Why; empty: it is not."""
        try:
            await self.callers.actor(authorization, "", "rest", address)
        except Denied as denied:
            return denied.code
        return ""

    def client(self) -> httpx.AsyncClient:
        """Of the OAuth endpoints; whatever a token means is none of their business here."""
        oauth = OAuth(TOKENS, cast("SigningKeys", self.verified), cast("TokenService", self.verified), self.callers)
        transport = httpx.ASGITransport(Starlette(routes=oauth.routes))
        return httpx.AsyncClient(transport=transport, base_url="https://models.example")


@pytest.fixture
def world() -> World:
    return World(FloodGuard(rate=3, window=60, burst=3))


async def test_who_is_refused_too_often_has_to_wait_before_anything_is_verified(world: World) -> None:
    assert [await world.refused("Bearer x") for _ in range(4)] == ["token_malformed"] * 3 + ["flood"]
    asked = world.verified.asked
    assert [await world.refused(*wrong) for wrong in (NEW, (), ("Bearer a", "Bearer b"))] == ["flood"] * 3
    assert world.verified.asked == asked
    assert await world.refused(*GOOD) == "", "known to be good"
    assert await world.refused(*NEW, address="192.0.2.2") == "", "somewhere else"
    world.clock.advance(21)
    assert await world.refused(*NEW) == ""


async def test_without_a_bound_in_the_policy_there_is_none() -> None:
    world = World(None)
    assert {await world.refused("Bearer x") for _ in range(50)} == {"token_malformed"}


def test_nobody_is_an_administrator_by_leaving_a_role_out_of_an_api_token() -> None:
    own = replace(TOKENS, administrators=Not(Has(Trait.ROLE, frozenset({"contractor"}))))
    owner = replace(WHO, roles=frozenset({"contractor"}))
    assert actor_of(WHO, own, via="rest", address="").administrator
    assert not actor_of(replace(WHO, owner=owner), own, via="rest", address="").administrator


async def test_nobody_tries_tokens_without_end_where_leaked_ones_are_ended(world: World) -> None:
    async with world.client() as client:
        tried = [await client.post("/tollgate/oauth/revoke", data={"token": f"tgl_{at}"}) for at in range(4)]
        assert [each.status_code for each in tried] == [200, 200, 200, 429]
        asked = world.verified.asked
        answer = await client.post("/tollgate/oauth/revoke", data={"token": "tgl_own"})
        assert (answer.status_code, answer.json()["error"]) == (429, "temporarily_unavailable"), "it is not ended"
        assert int(answer.headers["retry-after"]) >= 1
        assert (world.verified.asked, world.verified.ended) == (asked, [])
        world.clock.advance(21)
        assert (await client.post("/tollgate/oauth/revoke", data={"token": "tgl_own"})).status_code == 200
    assert world.verified.ended == ["127.0.0.1"]


async def test_errors_of_oauth_are_those_that_its_clients_know(world: World) -> None:
    form = {"content-type": "Application/X-WWW-Form-URLencoded"}
    async with world.client() as client:
        empty = await client.post("/tollgate/oauth/revoke", content=b"a=b", headers=form)
        nobody = await client.post("/tollgate/oauth/introspect", data={"token": "x"})
        wrong = await client.post("/tollgate/oauth/introspect", headers={"authorization": "Bearer x"})
        keys = await client.get("/tollgate/jwks")
    assert (empty.status_code, empty.json()["error"]) == (400, "invalid_request")
    assert (nobody.status_code, nobody.headers["www-authenticate"][:6]) == (401, "Bearer")
    assert (wrong.status_code, wrong.json()["error"]) == (401, "invalid_token")
    assert (keys.status_code, keys.json()["error"]) == (503, "temporarily_unavailable")
    for answer in (empty, nobody, wrong, keys):
        assert answer.headers["content-type"] == "application/json"
        assert answer.json()["error_description"]
        assert answer.headers["cache-control"] == "no-store"
