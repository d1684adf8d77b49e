"""Tokens of services are used once, unless the policy lets them be used again; replicas share what was used."""

from __future__ import annotations

import asyncio

import pytest

from ext_authz.errors import Denied, Unavailable
from ext_authz.identity.authenticator import TokenAuthenticator
from ext_authz.identity.identity import RefusedToken
from tests.fakes import FakeClock, FakeJwks
from tests.tokens import RSA_NEXT
from tests.unit.identity.asap_world import SERVICE, World, a_service, signed
from tests.unit.identity.world import checked


async def test_a_second_use_at_any_replica() -> None:
    world = World()
    other, token = world.replica(), signed()
    await world.call(token)
    assert world.authenticator.cached(f"Bearer {token}") is None
    for replica in (world.authenticator, other):
        with pytest.raises(RefusedToken) as refused:
            await world.call(token, replica)
        checked(refused.value, "token_replayed")
        assert refused.value.identity.principal.subject == "web"
    await world.call(signed({"jti": "another"}), other)


async def test_of_uses_at_the_same_time_one_counts() -> None:
    world = World()
    replicas, token = (world.authenticator, world.replica()), signed()
    calls = [world.call(token, replicas[number % 2]) for number in range(20)]
    found = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(not isinstance(each, Denied) for each in found) == 1


async def test_another_spelling_of_the_token_is_the_same_use() -> None:
    world = World()
    await world.call(signed())
    checked(await world.refusal(signed({"more": True})), "token_replayed")


async def test_it_is_known_for_as_long_as_it_could_be_accepted() -> None:
    world = World()
    await world.call(signed())
    world.clock.advance(60 + 30 + 30)
    assert world.replays.knows()
    world.clock.advance(1)
    assert not world.replays.knows()


async def test_a_token_that_is_refused_uses_nothing_up() -> None:
    world = World()
    for token in (signed(key=RSA_NEXT), signed({"aud": "other"}), signed({"sub": "other"})):
        await world.refusal(token)
    await world.call(signed())


async def test_without_the_store_nothing_is_accepted() -> None:
    world = World()
    world.replays.down = True
    with pytest.raises(Unavailable) as outage:
        await world.call(signed())
    assert outage.value.dependency == "redis"
    world.replays.down = False
    await world.call(signed())


async def test_a_policy_that_is_not_in_force_uses_nothing_up() -> None:
    world = World()
    candidate, token = world.replica(whose="candidate:"), signed()
    for _ in range(2):
        await world.call(token, candidate)
    await world.call(token)


async def test_tokens_that_may_be_used_again() -> None:
    world = World(a_service({"replays": True}))
    token = signed()
    identity = await world.call(token)
    assert world.authenticator.cached(f"Bearer {token}") is identity
    assert await world.call(token, world.replica())
    assert not world.replays.knows()
    world.clock.advance(90)
    assert world.authenticator.cached(f"Bearer {token}") is None


async def test_where_no_key_can_be_fetched_no_service_is_known(clock: FakeClock) -> None:
    authenticator = TokenAuthenticator([SERVICE], fetch=FakeJwks(), clock=clock, cache_size=10)
    with pytest.raises(Denied) as refused:
        await authenticator.authenticate((f"Bearer {signed()}",))
    checked(refused.value, "issuer_unknown")


async def test_its_state_is_that_of_its_repository() -> None:
    world = World()
    await world.authenticator.start()
    assert (world.authenticator.up(), world.authenticator.lost()) == ({"jwks:web": True}, {"jwks:web": None})
    assert world.authenticator.key_sets == {}
    world.repository.down.add("https://")
    with pytest.raises(Unavailable) as outage:
        await world.call(signed())
    assert outage.value.dependency == "jwks"
    assert world.authenticator.up() == {"jwks:web": False}
    assert world.authenticator.lost() == {"jwks:web": world.clock.monotonic()}
    await world.authenticator.stop()
