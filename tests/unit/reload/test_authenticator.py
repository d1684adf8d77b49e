"""From one policy to the next: unchanged issuers keep everything, of the others nothing stays."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from ext_authz.errors import Denied, Unavailable
from ext_authz.reload.authenticator import PolicyAuthenticator
from tests.fakes import FakeClock, FakeJwks
from tests.tokens import RSA, RSA_NEXT
from tests.unit.identity.world import an_issuer, minted
from tests.unit.reload.policies import OTHER


class World:
    """An authenticator in force, and the one that takes over from it."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.endpoint = FakeJwks(RSA)
        issuers = [an_issuer(), an_issuer(name="other", issuer=OTHER)]
        self.now = PolicyAuthenticator(issuers, fetch=self.endpoint, clock=self.clock, cache_size=100)

    async def change(self, *issuers: object) -> PolicyAuthenticator:
        """Returns the one before."""
        before, after = self.now, self.now.beside(issuers)  # type: ignore[arg-type]
        await after.fetch_keys()
        after.ensure_no_worse_than(before)
        after.take_over(before)
        self.now = after
        return before


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    await world.now.start()
    yield world
    await world.now.stop()


def bearer(**claims: object) -> str:
    return f"Bearer {minted(claims)}"


async def test_an_unchanged_issuer_keeps_its_keys_and_its_callers(world: World) -> None:
    known = bearer()
    identity = await world.now.authenticate((known,))
    asked = world.endpoint.asked
    await world.change(an_issuer())
    assert world.now.cached(known) is identity
    await world.now.authenticate((bearer(jti="new"),))
    assert world.endpoint.asked == asked


async def test_callers_of_an_issuer_that_is_gone_are_refused_at_once(world: World) -> None:
    known = bearer(iss=OTHER)
    await world.now.authenticate((known,))
    await world.change(an_issuer())
    assert world.now.cached(known) is None
    with pytest.raises(Denied, match="issuer_unknown"):
        await world.now.authenticate((known,))


async def test_they_stay_refused_when_the_issuer_comes_back(world: World) -> None:
    """What was verified under the policy before last is not believed again without looking."""
    known = bearer(iss=OTHER)
    await world.now.authenticate((known,))
    await world.change(an_issuer())
    await world.change(an_issuer(), an_issuer(name="other", issuer=OTHER))
    assert world.now.cached(known) is None


async def test_callers_of_an_issuer_that_is_defined_otherwise_are_verified_again(world: World) -> None:
    known = bearer()
    before = await world.now.authenticate((known,))
    await world.change(an_issuer(leeway=29))
    assert world.now.cached(known) is None
    assert (await world.now.authenticate((known,))) is not before


async def test_a_check_under_way_finds_its_end_in_the_old_policy(world: World) -> None:
    """Its verdict is not worth anything to the new one."""
    late = bearer(iss=OTHER)
    before = await world.change(an_issuer())
    assert (await before.authenticate((late,))).principal.issuer == OTHER
    assert world.now.cached(late) is None
    for known in (bearer(), late):
        await before.authenticate((known,))
    assert world.now.cached(late) is None


async def test_the_keys_of_a_retired_set_do_not_come_back_to_life(world: World) -> None:
    """The old one fetches again for a check under way: what the new one took over stays dead."""
    known = bearer(iss=OTHER)
    await world.now.authenticate((known,))
    before = await world.change(an_issuer())
    await before.authenticate((bearer(iss=OTHER, jti="late"),))
    assert world.now.cached(known) is None


async def test_an_issuer_that_is_down_costs_no_keys_that_are_there(world: World) -> None:
    known = bearer()
    await world.now.authenticate((known,))
    world.endpoint.down = True
    with pytest.raises(Unavailable, match="the keys of issuer ml cannot be fetched now"):
        await world.change(an_issuer(leeway=0))
    assert world.now.cached(known)


async def test_a_new_issuer_that_is_down_costs_its_own_tokens_only(world: World) -> None:
    world.endpoint.down = True
    third = "https://third.example"
    await world.change(an_issuer(), an_issuer(name="third", issuer=third))
    await world.now.authenticate((bearer(),))
    with pytest.raises(Unavailable):
        await world.now.authenticate((bearer(iss=third),))


async def test_rotation_still_ends_trust_after_a_change(world: World) -> None:
    known = bearer()
    await world.now.authenticate((known,))
    await world.change(an_issuer())
    world.endpoint.publish(RSA_NEXT)
    await world.now._key_sets[an_issuer().issuer].refresh()
    assert world.now.cached(known) is None


async def test_up_is_about_the_issuers_of_now(world: World) -> None:
    assert world.now.up() == {"jwks:ml": True, "jwks:other": True}
    await world.change(an_issuer())
    assert world.now.up() == {"jwks:ml": True}


async def test_one_beside_shares_keys_and_no_callers(world: World) -> None:
    known = bearer()
    await world.now.authenticate((known,))
    asked = world.endpoint.asked
    beside = world.now.beside([an_issuer(), an_issuer(name="other", issuer=OTHER, leeway=0)])
    await beside.fetch_keys()
    assert world.endpoint.asked == asked + 1
    assert beside.cached(known) is None
    assert (await beside.authenticate((known,))).principal.issuer == an_issuer().issuer
    await beside.stop_beside()
    await world.now.authenticate((bearer(jti="still served"),))
