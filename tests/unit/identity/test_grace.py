"""Keys that cannot be refreshed are accepted for a grace, if the failure policy allows it, and never longer."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator

import pytest

from ext_authz.errors import Denied, Unavailable
from ext_authz.identity.authenticator import TokenAuthenticator
from tests.fakes import FakeClock, FakeJwks
from tests.tokens import RSA, RSA_NEXT, TestKey, jwks
from tests.unit.identity.world import an_issuer, minted

STALE, GRACE = 100, 60
TOKEN = (f"Bearer {minted()}",)


@pytest.fixture
async def authenticator(clock: FakeClock, endpoint: FakeJwks) -> AsyncIterator[TokenAuthenticator]:
    """Its issuer has not answered for as long as its keys are trusted."""
    issuer = an_issuer(jwks_max_stale=STALE, jwks_cooldown=10)
    authenticator = TokenAuthenticator([issuer], fetch=endpoint, clock=clock, cache_size=100)
    await authenticator.start()
    endpoint.down = True
    clock.advance(STALE)
    yield authenticator
    await authenticator.stop()


async def ensure_unavailable(authenticator: TokenAuthenticator, grace: float) -> None:
    with pytest.raises(Unavailable) as refused:
        await authenticator.authenticate(TOKEN, grace)
    assert refused.value.dependency == "jwks"


async def test_accepted_for_the_grace_and_marked(authenticator: TokenAuthenticator, clock: FakeClock) -> None:
    since = clock.monotonic()
    await ensure_unavailable(authenticator, 0)
    first = await authenticator.authenticate(TOKEN, GRACE)
    assert (first.degraded, authenticator.lost()) == ("jwks", {"jwks:ml": since})
    clock.advance(GRACE - 1)
    assert await authenticator.authenticate(TOKEN, GRACE) is first, "not verified anew for each check"
    assert authenticator.cached(*TOKEN) is None, "a route that does not bear it must not find it"
    await ensure_unavailable(authenticator, 0)
    clock.advance(1)
    await ensure_unavailable(authenticator, GRACE)


async def test_a_new_token_of_a_stale_key_does_not_wait_for_an_issuer_that_hangs(
    authenticator: TokenAuthenticator, endpoint: FakeJwks
) -> None:
    endpoint.answering.clear()
    endpoint.arrived.clear()
    fetching = asyncio.create_task(authenticator._key_sets[an_issuer().issuer].refresh())
    await endpoint.arrived.wait()
    async with asyncio.timeout(5):
        identities = [await authenticator.authenticate((f"Bearer {minted({'jti': f'{n}'})}",), GRACE) for n in range(3)]
    assert [identity.degraded for identity in identities] == ["jwks"] * 3
    assert not fetching.done()
    endpoint.answering.set()
    await fetching


async def test_who_was_verified_before_stays_known_without_being_verified_again(
    clock: FakeClock, endpoint: FakeJwks
) -> None:
    issuer = an_issuer(jwks_max_stale=STALE, jwks_refresh=1, jwks_cooldown=1)
    authenticator = TokenAuthenticator([issuer], fetch=endpoint, clock=clock, cache_size=100)
    await authenticator.start()
    fresh = await authenticator.authenticate(TOKEN)
    endpoint.down = True
    clock.advance(STALE)
    stale = authenticator.cached(*TOKEN, GRACE)
    assert stale is not None
    assert (stale.principal, stale.degraded, fresh.degraded) == (fresh.principal, "jwks", "")
    assert authenticator.cached(*TOKEN, math.inf) is stale
    assert authenticator.cached(*TOKEN) is None

    endpoint.down = False
    await authenticator._key_sets[issuer.issuer].refresh()
    assert authenticator.cached(*TOKEN) is fresh
    endpoint.document = jwks(RSA_NEXT)
    await authenticator._key_sets[issuer.issuer].refresh()
    assert authenticator.cached(*TOKEN, math.inf) is None, "a key that was withdrawn is not accepted"
    await authenticator.stop()


async def test_other_tokens_of_a_stale_key_are_verified(authenticator: TokenAuthenticator) -> None:
    thief = TestKey("rsa-next", "RS256", key_id=RSA.key_id)
    with pytest.raises(Denied) as refused:
        await authenticator.authenticate((f"Bearer {minted(key=thief)}",), GRACE)
    assert refused.value.code == "signature_invalid"


async def test_a_token_expires_during_the_grace_too(clock: FakeClock, authenticator: TokenAuthenticator) -> None:
    brief = (f"Bearer {minted({'exp': int(clock.now()) + 10})}",)
    assert (await authenticator.authenticate(brief, 600)).degraded
    clock.advance(10 + 30)
    with pytest.raises(Denied) as refused:
        await authenticator.authenticate(brief, 600)
    assert refused.value.code == "token_expired"


async def test_when_the_issuer_is_back_the_same_token_is_good_without_grace(
    authenticator: TokenAuthenticator, endpoint: FakeJwks, clock: FakeClock
) -> None:
    assert (await authenticator.authenticate(TOKEN, GRACE)).degraded
    clock.advance(10)
    endpoint.down = False
    await authenticator._key_sets[an_issuer().issuer].refresh()
    assert (await authenticator.authenticate(TOKEN, GRACE)).degraded == ""
    assert authenticator.cached(*TOKEN)
    assert authenticator.lost() == {"jwks:ml": None}


async def test_a_key_that_was_withdrawn_is_not_accepted(
    authenticator: TokenAuthenticator, endpoint: FakeJwks, clock: FakeClock
) -> None:
    await authenticator.authenticate(TOKEN, GRACE)
    clock.advance(10)
    endpoint.down = False
    endpoint.publish(TestKey("rsa-next", "RS256"))
    await authenticator._key_sets[an_issuer().issuer].refresh()
    with pytest.raises(Denied) as refused:
        await authenticator.authenticate(TOKEN, GRACE)
    assert refused.value.code == "key_unknown"


async def test_keys_never_had_are_not_accepted(clock: FakeClock, endpoint: FakeJwks) -> None:
    endpoint.down = True
    authenticator = TokenAuthenticator([an_issuer()], fetch=endpoint, clock=clock, cache_size=100)
    await ensure_unavailable(authenticator, GRACE)
