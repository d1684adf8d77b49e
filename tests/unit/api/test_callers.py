"""Tokens that are tried one after the other at an interface for programs."""

from __future__ import annotations

from typing import cast

import pytest
from msgspec.structs import replace

from ext_authz.api.callers import Callers, actor_of
from ext_authz.decision import ANONYMOUS, Reason
from ext_authz.errors import Denied
from ext_authz.identity.authenticator import TokenAuthenticator
from ext_authz.identity.identity import Identity
from ext_authz.phases.flood_guard import FloodGuard
from ext_authz.policy.rights import Has, Not, Trait
from ext_authz.revocation.store import RevocationStore
from tests.fakes import FakeClock
from tests.unit.render.policies import TOKENS

WHO = Identity(ANONYMOUS, "kc", "", 0, 1.0, (), frozenset(), frozenset())
GOOD, NEW = ("Bearer good",), ("Bearer new",)


class Verified:
    """Knows one token, and verifies another one."""

    asked = 0

    def cached(self, authorization: str) -> Identity | None:
        return WHO if authorization == GOOD[0] else None

    async def authenticate(self, authorization: tuple[str, ...]) -> Identity:
        self.asked += 1
        if authorization in (GOOD, NEW):
            return WHO
        raise Denied(Reason.INVALID_CREDENTIAL, "token_malformed", "no")

    async def revoked(self, asked: list[object]) -> list[None]:
        return [None for _ in asked]


class World:
    def __init__(self, guard: FloodGuard | None) -> None:
        self.clock, self.verified = FakeClock(), Verified()
        authenticator, store = cast("TokenAuthenticator", self.verified), cast("RevocationStore", self.verified)
        self._callers = Callers(TOKENS, authenticator, store, 1, guard=guard, clock=self.clock)

    async def refused(self, *authorization: str, address: str = "192.0.2.1") -> str:
        """Why; empty: it is not."""
        try:
            await self._callers.actor(authorization, "", "rest", address)
        except Denied as denied:
            return denied.code
        return ""


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
