"""Keys by their id: fetched when they are named, within bounds, kept current, and gone when they are withdrawn."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

import pytest

from ext_authz.errors import Denied, Unavailable
from ext_authz.identity import key_repository as module
from ext_authz.identity.key_repository import MAX_AT_ONCE, MAX_FETCHES, MAX_KEYS, KeyRepository
from ext_authz.identity.keys import SigningKey
from ext_authz.policy.issuers import Issuer
from tests.fakes import FakeClock, FakeRepository
from tests.tokens import EC256, RSA, RSA_NEXT, RSA_WEAK
from tests.unit.identity.asap_world import RULES, a_service
from tests.unit.identity.world import checked, metric

ONE, TWO = ("web/one", "RS256"), ("web/two", "RS256")
TWICE = a_service({"repositories": ("https://keys.example/", "https://copy.example/")})


@pytest.fixture
def endpoint() -> FakeRepository:
    return FakeRepository(one=RSA)


def of(issuer: Issuer, endpoint: FakeRepository, clock: FakeClock) -> KeyRepository:
    return KeyRepository(issuer, issuer.asap or RULES, fetch=endpoint, clock=clock)


@pytest.fixture
async def keys(endpoint: FakeRepository, clock: FakeClock) -> AsyncIterator[KeyRepository]:
    keys = of(a_service(), endpoint, clock)
    await keys.refresh()
    yield keys
    await keys.close()


async def ensure_unknown(keys: KeyRepository, key_id: str) -> None:
    with pytest.raises(Denied) as refused:
        await keys.key((key_id, "RS256"))
    checked(refused.value, "key_unknown")


async def ensure_unavailable(keys: KeyRepository, key_id: str = "web/one", grace: float = 0) -> str:
    with pytest.raises(Unavailable) as outage:
        await keys.key((key_id, "RS256"), grace)
    assert outage.value.dependency == "jwks"
    return outage.value.detail


async def settled(keys: KeyRepository) -> None:
    """Whatever is due has been fetched."""
    keys.refresh_if_due()
    while keys._fetching:
        await asyncio.wait([*keys._fetching.values()])


async def test_a_key_is_fetched_when_it_is_named_and_once(keys: KeyRepository, endpoint: FakeRepository) -> None:
    assert endpoint.asked == []
    key = await keys.key(ONE)
    assert (key.name, key.public == RSA.private.public_key()) == (ONE, True)
    assert await keys.key(ONE) is key
    assert endpoint.asked == ["https://keys.example/web/one"]


async def test_first_uses_at_the_same_time_share_a_fetch(keys: KeyRepository, endpoint: FakeRepository) -> None:
    endpoint.answering.clear()
    calls = [asyncio.create_task(keys.key(ONE)) for _ in range(50)]
    await endpoint.arrived.wait()
    calls[0].cancel()
    endpoint.answering.set()
    await asyncio.gather(*calls[1:])
    assert len(endpoint.asked) == 1


async def test_a_key_that_is_not_there_is_not_asked_for_again(
    keys: KeyRepository, endpoint: FakeRepository, clock: FakeClock
) -> None:
    for _ in range(3):
        await ensure_unknown(keys, "web/two")
    assert len(endpoint.asked) == 1
    endpoint.publish("two", RSA_NEXT)
    clock.advance(10)
    assert await keys.key(TWO)


async def test_invented_keys_cause_so_many_fetches_and_no_more(
    keys: KeyRepository, endpoint: FakeRepository, clock: FakeClock
) -> None:
    await keys.key(ONE)
    for number in range(MAX_FETCHES):
        await ensure_unknown(keys, f"web/{number}")
    for number in range(1000):
        assert "too many keys" in await ensure_unavailable(keys, f"web/more-{number}")
    assert len(endpoint.asked) == 1 + MAX_FETCHES
    assert await keys.key(ONE), "known keys go on"
    clock.advance(10)
    endpoint.publish("two", RSA_NEXT)
    assert await keys.key(TWO)


async def test_keys_that_are_there_cost_nothing_of_it(keys: KeyRepository, endpoint: FakeRepository) -> None:
    for number in range(2 * MAX_FETCHES):
        endpoint.publish(str(number), RSA)
        await keys.key((f"web/{number}", "RS256"))


async def test_more_keys_than_are_kept(
    keys: KeyRepository, endpoint: FakeRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest goes, with the tokens that it signed; and fetches count again."""
    monkeypatch.setattr(module, "MAX_KEYS", 4)
    first = await keys.key(ONE)
    for number in range(3 + MAX_FETCHES):
        endpoint.publish(str(number), RSA)
        await keys.key((f"web/{number}", "RS256"))
    assert len(keys._known) == 4
    assert first.trusted_until < 0
    await ensure_unavailable(keys)
    assert MAX_KEYS == 256


async def test_fetches_at_once(keys: KeyRepository, endpoint: FakeRepository) -> None:
    """Those that invented keys cause hold up no key in use."""
    await keys.key(ONE)
    endpoint.answering.clear()
    calls = [asyncio.create_task(keys.key((f"web/{number}", "RS256"))) for number in range(MAX_AT_ONCE)]
    await asyncio.sleep(0)
    await ensure_unavailable(keys, "web/more")
    for number in range(MAX_AT_ONCE + 1):
        keys._start(f"web/in-use-{number}")
    assert len(keys._fetching) == 2 * MAX_AT_ONCE
    endpoint.answering.set()
    assert all(isinstance(each, Denied) for each in await asyncio.gather(*calls, return_exceptions=True))


async def test_the_next_repository_where_one_does_not_answer(endpoint: FakeRepository, clock: FakeClock) -> None:
    keys = of(TWICE, endpoint, clock)
    endpoint.publish("one", RSA_NEXT, at="https://copy.example/")
    endpoint.down.add("https://keys.example/")
    assert (await keys.key(ONE)).public == RSA_NEXT.private.public_key()
    endpoint.down.clear()
    await ensure_unknown(keys, "web/two")
    assert endpoint.asked[-1] == "https://keys.example/web/two", "what one says is not asked of another"


async def test_a_withdrawn_key(keys: KeyRepository, endpoint: FakeRepository, clock: FakeClock) -> None:
    key = await keys.key(ONE)
    endpoint.held.clear()
    clock.advance(299)
    await settled(keys)
    assert await keys.key(ONE) is key
    clock.advance(1)
    await settled(keys)
    assert key.trusted_until < 0
    await ensure_unknown(keys, "web/one")


async def test_a_key_that_stays_is_the_same_object(
    keys: KeyRepository, endpoint: FakeRepository, clock: FakeClock
) -> None:
    key, until = await keys.key(ONE), keys.trusted_until
    clock.advance(300)
    await settled(keys)
    assert await keys.key(ONE) is key
    assert (key.trusted_until, len(endpoint.asked)) == (until + 300, 2)


async def test_another_key_under_the_same_id(keys: KeyRepository, endpoint: FakeRepository, clock: FakeClock) -> None:
    before = await keys.key(ONE)
    endpoint.publish("one", RSA_NEXT)
    clock.advance(300)
    await settled(keys)
    after = await keys.key(ONE)
    assert (after.same(before), before.trusted_until < 0) == (False, True)
    endpoint.publish("one", EC256)
    clock.advance(300)
    await settled(keys)
    assert await keys.key(("web/one", "ES256"))
    with pytest.raises(Denied) as refused:
        await keys.key(ONE)
    assert "another type" in checked(refused.value, "key_unknown")


async def test_a_key_that_no_token_names_any_more_is_forgotten(
    keys: KeyRepository, endpoint: FakeRepository, clock: FakeClock
) -> None:
    key = await keys.key(ONE)
    for _ in range(12):
        clock.advance(300)
        await settled(keys)
    assert keys._known
    clock.advance(300)
    await settled(keys)
    assert (keys._known, key.trusted_until < 0, len(endpoint.asked)) == ({}, True, 13)


async def test_while_the_repository_is_away(keys: KeyRepository, endpoint: FakeRepository, clock: FakeClock) -> None:
    """Known keys for `jwks_max_stale`, and for the grace of a route; then 503 until it is back, by itself."""
    key = await keys.key(ONE)
    endpoint.down.add("https://")
    clock.advance(300)
    await settled(keys)
    assert (await keys.key(ONE) is key, keys.usable) == (True, True)
    await ensure_unavailable(keys, "web/two")
    clock.advance(3300)
    await settled(keys)
    assert "connection refused" in await ensure_unavailable(keys)
    assert (keys.usable, keys.trusted_until) == (False, key.trusted_until)
    assert await keys.key(ONE, grace=60) is key
    endpoint.down.clear()
    clock.advance(10)
    await settled(keys)
    assert await keys.key(ONE) is key
    assert keys.usable


async def test_a_repository_that_never_answered_is_asked_again(
    keys: KeyRepository, endpoint: FakeRepository, clock: FakeClock
) -> None:
    endpoint.down.add("https://")
    await ensure_unavailable(keys, "web/two")
    assert (keys.usable, keys.trusted_until) == (False, clock.monotonic())
    clock.advance(9)
    await settled(keys)
    assert len(endpoint.asked) == 1
    endpoint.down.clear()
    clock.advance(1)
    await settled(keys)
    assert keys.usable
    await ensure_unknown(keys, "web/two")


@pytest.mark.parametrize("document", [b"<html>", RSA_WEAK.pem(), RSA.pem() * 2])
async def test_what_is_there_is_no_key(
    keys: KeyRepository,
    endpoint: FakeRepository,
    clock: FakeClock,
    document: bytes,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The service publishes that itself: it is no outage, and the key that it had is gone."""
    key = await keys.key(ONE)
    endpoint.publish("one", document)
    clock.advance(300)
    await settled(keys)
    assert (key.trusted_until < 0, keys.usable) == (True, True)
    await ensure_unknown(keys, "web/one")
    assert [record.msg for record in caplog.records] == ["key not used"]


async def test_each_cause_is_logged_once(
    keys: KeyRepository, endpoint: FakeRepository, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def refused(_: str) -> bytes | None:
        raise ValueError("status 502")

    keys._fetch = refused
    for _ in range(3):
        await ensure_unavailable(keys)
    keys._fetch = endpoint
    endpoint.down.add("https://")
    await ensure_unavailable(keys)
    endpoint.down.clear()
    assert await keys.key(ONE)
    assert [record.msg for record in caplog.records] == [*["key fetch failed"] * 2, "key repository answers"]
    assert caplog.records[0].__dict__["error"] == "https://keys.example/: status 502"
    assert caplog.records[1].__dict__["error"].startswith("https://keys.example/: OSError: connection refused")


async def test_closing_ends_a_fetch_that_hangs(keys: KeyRepository, endpoint: FakeRepository) -> None:
    endpoint.answering.clear()
    call = asyncio.create_task(keys.key(ONE))
    await endpoint.arrived.wait()
    await keys.close()
    with pytest.raises(Unavailable, match="stopped"):
        await call


async def test_metrics(endpoint: FakeRepository, clock: FakeClock) -> None:
    keys = KeyRepository(a_service(), RULES, fetch=endpoint, clock=clock, whose="metrics:")
    await keys.key(ONE)
    endpoint.down.add("https://")
    await ensure_unavailable(keys, "web/two")
    name = "tollgate_jwks_fetches_total"
    assert [metric(name, issuer="metrics:web", result=result) for result in ("ok", "error")] == [1, 1]
    key: SigningKey = await keys.key(ONE)
    assert key.key_id == "web/one"
