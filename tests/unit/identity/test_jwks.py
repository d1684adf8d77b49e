"""The keys of an issuer: rotation, floods, outages."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator

import pytest

from ext_authz.errors import Denied, Unavailable
from ext_authz.identity.jwks import KeySet
from ext_authz.identity.keys import SigningKey
from tests.fakes import FakeClock, FakeJwks
from tests.tokens import EC256, RSA, RSA_NEXT
from tests.unit.identity.world import an_issuer, checked, metric


@pytest.fixture
def endpoint() -> FakeJwks:
    return FakeJwks(RSA)


@pytest.fixture
async def keys(clock: FakeClock, endpoint: FakeJwks) -> AsyncIterator[KeySet]:
    """Fetched once."""
    keys = KeySet(an_issuer(name="kc"), fetch=endpoint, clock=clock)
    await keys.refresh()
    yield keys
    await keys.close()


async def ensure_unknown(keys: KeySet, key_id: str) -> None:
    with pytest.raises(Denied) as refused:
        await keys.key((key_id, "RS256"))
    checked(refused.value, "key_unknown")


async def ensure_unavailable(keys: KeySet, key_id: str) -> None:
    with pytest.raises(Unavailable) as failure:
        await keys.key((key_id, "RS256"))
    assert failure.value.dependency == "jwks"


async def test_a_known_key_costs_no_fetch(keys: KeySet, endpoint: FakeJwks) -> None:
    assert (await keys.key(RSA.name)).key_id == RSA.key_id
    assert endpoint.asked == 1


async def test_a_rotation_fails_no_request(keys: KeySet, endpoint: FakeJwks) -> None:
    endpoint.publish(RSA_NEXT, RSA)
    assert (await keys.key(RSA_NEXT.name)).key_id == RSA_NEXT.key_id
    assert (await keys.key(RSA.name)).key_id == RSA.key_id
    assert endpoint.asked == 2


async def test_two_rotations_in_one_cool_down(keys: KeySet, endpoint: FakeJwks) -> None:
    """A fetch that found what it was sent for starts no cool-down."""
    endpoint.publish(RSA_NEXT, RSA)
    await keys.key(RSA_NEXT.name)
    endpoint.publish(EC256, RSA_NEXT)
    assert (await keys.key(EC256.name)).algorithm == "ES256"


async def test_a_rotation_right_after_the_periodic_fetch(keys: KeySet, endpoint: FakeJwks) -> None:
    """The cool-down counts fetches that unknown keys caused, not those that were due anyway."""
    await keys.refresh()
    endpoint.publish(RSA_NEXT)
    assert (await keys.key(RSA_NEXT.name)).key_id == RSA_NEXT.key_id


async def test_a_flood_of_unknown_keys_costs_one_fetch_per_cool_down(
    keys: KeySet, endpoint: FakeJwks, clock: FakeClock
) -> None:
    for round_ in range(1, 4):
        await asyncio.gather(*(ensure_unknown(keys, f"{round_}-{n}") for n in range(100)))
        for n in range(100):
            await ensure_unknown(keys, f"{round_}-late-{n}")
        assert endpoint.asked == 1 + round_
        clock.advance(keys.issuer.jwks_cooldown)


async def test_after_a_flood_a_rotation_is_found_when_the_cool_down_ends(
    keys: KeySet, endpoint: FakeJwks, clock: FakeClock
) -> None:
    await ensure_unknown(keys, "made-up")
    endpoint.publish(RSA_NEXT)
    await ensure_unknown(keys, RSA_NEXT.key_id)
    clock.advance(keys.issuer.jwks_cooldown)
    assert (await keys.key(RSA_NEXT.name)).key_id == RSA_NEXT.key_id


async def test_many_waiters_share_one_fetch(clock: FakeClock, endpoint: FakeJwks) -> None:
    keys = KeySet(an_issuer(), fetch=endpoint, clock=clock)
    endpoint.answering.clear()
    waiting = [asyncio.create_task(keys.key(RSA.name)) for _ in range(50)]
    await endpoint.arrived.wait()
    endpoint.answering.set()
    assert {(await task).key_id for task in waiting} == {RSA.key_id}
    assert endpoint.asked == 1


async def under_way(keys: KeySet, endpoint: FakeJwks) -> asyncio.Task[None]:
    """A periodic fetch that was sent before what happens next, and is still waiting for its answer."""
    endpoint.answering.clear()
    endpoint.arrived.clear()
    refreshing = asyncio.create_task(keys.refresh())
    await endpoint.arrived.wait()
    return refreshing


async def test_a_fetch_from_before_the_rotation_is_not_the_last_word(keys: KeySet, endpoint: FakeJwks) -> None:
    refreshing = await under_way(keys, endpoint)
    endpoint.publish(RSA_NEXT)
    waiting = [asyncio.create_task(keys.key(RSA_NEXT.name)) for _ in range(10)]
    endpoint.answering.set()
    assert {(await task).key_id for task in waiting} == {RSA_NEXT.key_id}
    await refreshing
    assert endpoint.asked == 3  # the first of all, the one under way, one more for the ten


async def test_a_fetch_under_way_may_bring_the_key(keys: KeySet, endpoint: FakeJwks) -> None:
    endpoint.publish(RSA_NEXT)
    refreshing = await under_way(keys, endpoint)
    waiting = asyncio.create_task(keys.key(RSA_NEXT.name))
    endpoint.answering.set()
    assert (await waiting).key_id == RSA_NEXT.key_id
    await refreshing
    assert endpoint.asked == 2


async def test_known_keys_do_not_wait_for_a_fetch(keys: KeySet, endpoint: FakeJwks) -> None:
    refreshing = await under_way(keys, endpoint)
    async with asyncio.timeout(5):
        assert (await keys.key(RSA.name)).key_id == RSA.key_id
    endpoint.answering.set()
    await refreshing


async def test_a_stale_set_does_not_refuse_unknown_keys(clock: FakeClock, endpoint: FakeJwks) -> None:
    keys = KeySet(an_issuer(jwks_max_stale=5, jwks_cooldown=10), fetch=endpoint, clock=clock)
    await ensure_unknown(keys, "made-up")
    clock.advance(5)
    await ensure_unavailable(keys, "made-up")


async def test_a_cancelled_request_takes_no_fetch_with_it(clock: FakeClock, endpoint: FakeJwks) -> None:
    keys = KeySet(an_issuer(), fetch=endpoint, clock=clock)
    endpoint.answering.clear()
    gone, waiting = (asyncio.create_task(keys.key(RSA.name)) for _ in range(2))
    await endpoint.arrived.wait()
    gone.cancel()
    endpoint.answering.set()
    assert (await waiting).key_id == RSA.key_id
    assert gone.cancelled()


async def test_a_disabled_key_is_distrusted(keys: KeySet, endpoint: FakeJwks, clock: FakeClock) -> None:
    endpoint.publish(RSA, RSA_NEXT)
    await keys.refresh()
    old, new = await keys.key(RSA.name), await keys.key(RSA_NEXT.name)
    endpoint.publish(RSA_NEXT)
    await keys.refresh()
    assert old.trusted_until < clock.monotonic() < new.trusted_until
    await ensure_unknown(keys, RSA.key_id)


async def test_a_key_that_stays_is_the_same_object(keys: KeySet, clock: FakeClock) -> None:
    """Cached tokens hold on to it: its trust is what a fetch prolongs."""
    key = await keys.key(RSA.name)
    until = key.trusted_until
    clock.advance(100)
    await keys.refresh()
    assert await keys.key(RSA.name) is key
    assert key.trusted_until == until + 100


async def test_another_key_under_the_same_id(keys: KeySet, endpoint: FakeJwks) -> None:
    old = await keys.key(RSA.name)
    endpoint.document = endpoint.document.replace(
        str(RSA.jwk()["n"]).encode(), str(RSA_NEXT.jwk()["n"]).encode()
    )  # fmt: skip
    await keys.refresh()
    new = await keys.key(RSA.name)
    assert new.public == RSA_NEXT.private.public_key()
    assert old.trusted_until == -math.inf


async def test_an_outage_is_bridged_then_ends_in_no_verdict(
    keys: KeySet, endpoint: FakeJwks, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    endpoint.down = True
    with caplog.at_level(logging.WARNING):
        await keys.refresh()
    assert caplog.records[0].message == "jwks fetch failed"

    clock.advance(keys.issuer.jwks_max_stale - 1)
    assert (await keys.key(RSA.name)).key_id == RSA.key_id
    assert keys.usable

    clock.advance(1)
    await ensure_unavailable(keys, RSA.key_id)
    assert not keys.usable

    endpoint.down = False
    clock.advance(keys.issuer.jwks_cooldown)
    with caplog.at_level(logging.INFO):
        assert (await keys.key(RSA.name)).key_id == RSA.key_id
        await keys.refresh()
    assert [record.message for record in caplog.records].count("jwks fetched") == 1


async def test_during_an_outage_unknown_keys_are_not_refused(keys: KeySet, endpoint: FakeJwks) -> None:
    endpoint.down = True
    for n in range(100):
        await ensure_unavailable(keys, f"made-up-{n}")
    assert endpoint.asked == 2


@pytest.mark.parametrize("answer", [b"", b"<html>", b'{"keys":[]}', b"[" * 9999])
async def test_an_answer_that_is_no_key_set_takes_nothing_away(keys: KeySet, endpoint: FakeJwks, answer: bytes) -> None:
    endpoint.document = answer
    await keys.refresh()
    assert isinstance(await keys.key(RSA.name), SigningKey)


async def test_never_fetched_is_no_verdict(clock: FakeClock) -> None:
    endpoint = FakeJwks(RSA)
    endpoint.down = True
    keys = KeySet(an_issuer(), fetch=endpoint, clock=clock)
    assert not keys.usable
    await ensure_unavailable(keys, RSA.key_id)
    await keys.close()


async def fetches_when_due(keys: KeySet, endpoint: FakeJwks) -> int:
    """How many fetches one second starts."""
    before = endpoint.asked
    keys.refresh_if_due()
    if keys._fetching is not None:
        await keys.refresh()
    return endpoint.asked - before


async def test_fetched_again_when_due(keys: KeySet, endpoint: FakeJwks, clock: FakeClock) -> None:
    clock.advance(keys.issuer.jwks_refresh - 1)
    assert await fetches_when_due(keys, endpoint) == 0
    clock.advance(1)
    assert await fetches_when_due(keys, endpoint) == 1
    assert await fetches_when_due(keys, endpoint) == 0


async def test_fetched_again_before_it_is_stale(clock: FakeClock, endpoint: FakeJwks) -> None:
    keys = KeySet(an_issuer(jwks_refresh=300, jwks_max_stale=5), fetch=endpoint, clock=clock)
    await keys.refresh()
    clock.advance(5)
    assert await fetches_when_due(keys, endpoint) == 1


async def test_a_failed_fetch_is_tried_again_sooner(keys: KeySet, endpoint: FakeJwks, clock: FakeClock) -> None:
    endpoint.down = True
    await keys.refresh()
    clock.advance(keys.issuer.jwks_cooldown - 1)
    assert await fetches_when_due(keys, endpoint) == 0
    clock.advance(1)
    assert await fetches_when_due(keys, endpoint) == 1


async def test_metrics(keys: KeySet, endpoint: FakeJwks, clock: FakeClock) -> None:
    good = metric("tollgate_jwks_fetches_total", issuer="kc", result="ok")
    bad = metric("tollgate_jwks_fetches_total", issuer="kc", result="error")
    await keys.refresh()
    clock.advance(7)
    keys.refresh_if_due()
    assert metric("tollgate_jwks_age_seconds", issuer="kc") == 7
    endpoint.down = True
    await keys.refresh()
    assert metric("tollgate_jwks_fetches_total", issuer="kc", result="ok") == good + 1
    assert metric("tollgate_jwks_fetches_total", issuer="kc", result="error") == bad + 1


async def test_keys_of_a_candidate_are_reported_apart(keys: KeySet, endpoint: FakeJwks, clock: FakeClock) -> None:
    """A wrong address in a candidate is no outage of the issuer."""
    bad = metric("tollgate_jwks_fetches_total", issuer="kc", result="error")
    endpoint.down = True
    await KeySet(keys.issuer, fetch=endpoint, clock=clock, whose="candidate:").refresh()
    assert metric("tollgate_jwks_fetches_total", issuer="kc", result="error") == bad
    assert metric("tollgate_jwks_fetches_total", issuer="candidate:kc", result="error") == 1


async def test_closing_ends_a_fetch_that_hangs(keys: KeySet, endpoint: FakeJwks) -> None:
    refreshing = await under_way(keys, endpoint)
    waiting = asyncio.create_task(keys.key(("made-up", "RS256")))
    await keys.close()
    await refreshing
    endpoint.down = True
    endpoint.answering.set()
    with pytest.raises(Unavailable):
        await waiting
