"""What is remembered about a token, and for how long."""

from __future__ import annotations

import tracemalloc
from weakref import ReferenceType, ref

import pytest
from msgspec.structs import replace

from ext_authz.bounded import ENTRY_BYTES
from ext_authz.decision import ANONYMOUS
from ext_authz.errors import Denied
from ext_authz.identity.cache import (
    MAX_REFUSED,
    MAX_REFUSED_BYTES,
    REFUSED_SECONDS,
    RefusedTokens,
    Verified,
    VerifiedTokens,
)
from ext_authz.identity.identity import Identity, invalid
from ext_authz.identity.keys import SigningKey
from tests.fakes import FakeClock
from tests.unit.identity.world import identify, minted


def verified(clock: FakeClock, *, seconds: float = 60, trusted: float = 60) -> Verified:
    identity = Identity(ANONYMOUS, "ml", "", 0, 0.0, (), frozenset(), frozenset())
    key = SigningKey("kid", "RS256", None, clock.monotonic() + trusted)
    return Verified(identity, clock.now() + seconds, key)


def test_found_until_it_expires(clock: FakeClock) -> None:
    tokens = VerifiedTokens(clock, 10)
    entry = verified(clock, seconds=60, trusted=999)
    tokens.keep("t", entry)
    clock.advance(59.9)
    assert tokens.find("t") is entry.identity
    clock.advance(0.1)
    assert tokens.find("t") is None
    assert len(tokens) == 0


def test_expiry_follows_the_wall_clock(clock: FakeClock) -> None:
    tokens = VerifiedTokens(clock, 10)
    tokens.keep("t", verified(clock))
    clock.set_wall(clock.now() + 60)
    assert tokens.find("t") is None


def test_found_while_its_key_is_trusted(clock: FakeClock) -> None:
    tokens = VerifiedTokens(clock, 10)
    tokens.keep("t", verified(clock, seconds=999, trusted=60))
    clock.advance(60)
    assert tokens.find("t") is None


def test_dies_with_its_key(clock: FakeClock) -> None:
    tokens = VerifiedTokens(clock, 10)
    entry = verified(clock)
    tokens.keep("t", entry)
    entry.key.trusted_until = float("-inf")
    assert tokens.find("t") is None


def test_only_the_exact_value_is_found(clock: FakeClock) -> None:
    tokens = VerifiedTokens(clock, 10)
    tokens.keep("Bearer a.b.c", verified(clock))
    for other in ("bearer a.b.c", "Bearer a.b.c=", "Bearer a.b.C", ""):
        assert tokens.find(other) is None
    assert tokens.hits == 0


def test_the_oldest_goes_first(clock: FakeClock) -> None:
    tokens = VerifiedTokens(clock, 3)
    for name in "abcde":
        tokens.keep(name, verified(clock))
    assert [name for name in "abcde" if tokens.find(name)] == ["c", "d", "e"]


def test_size_zero_keeps_nothing(clock: FakeClock) -> None:
    tokens, refused = VerifiedTokens(clock, 0), RefusedTokens(clock, 0)
    tokens.keep("t", verified(clock))
    refused.keep("t", invalid("token_expired", "x"))
    assert (len(tokens), len(refused)) == (0, 0)


def with_roles(clock: FakeClock, count: int) -> Verified:
    entry = verified(clock)
    roles = frozenset(f"role {n}" for n in range(count))
    return replace(entry, identity=replace(entry.identity, roles=roles, claims={"tenant": ("a", "b"), "n": 7}))


def test_bounded_in_bytes(clock: FakeClock) -> None:
    """Large tokens displace more than small ones, and nothing is counted that has gone."""
    tokens = VerifiedTokens(clock, 1000, 100_000)
    for n in range(100):
        tokens.keep(f"small {n}", verified(clock))
    small = len(tokens)
    assert 50 < small < 100_000 // 1400
    for n in range(100):
        tokens.keep(f"large {n}", with_roles(clock, 200))
    assert len(tokens) == 100_000 // (tokens._entries.bytes // len(tokens)) < small // 10
    clock.advance(60)
    for n in range(100):
        assert tokens.find(f"large {n}") is None
    assert tokens._entries.bytes == 0


def test_what_is_larger_than_the_cache_is_not_kept(clock: FakeClock) -> None:
    tokens = VerifiedTokens(clock, 1000, 10_000)
    tokens.keep("small", verified(clock))
    tokens.keep("large", with_roles(clock, 200))
    assert tokens.find("large") is None
    assert tokens.find("small"), "nor does it displace others"


def test_the_same_token_is_counted_once(clock: FakeClock) -> None:
    tokens = VerifiedTokens(clock, 10)
    tokens.keep("t", verified(clock))
    size = tokens._entries.bytes
    tokens.keep("t", verified(clock))
    assert tokens._entries.bytes == size > 0


def test_the_count_is_about_what_it_takes(clock: FakeClock) -> None:
    """Measured by Python itself, for tokens as Keycloak writes them and with 200 roles."""
    for roles in (2, 200):
        tracemalloc.start()
        tokens = VerifiedTokens(clock, 1000)
        before = tracemalloc.get_traced_memory()[0]
        for n in range(100):
            identity = identify(minted({"jti": str(n), "realm_access": {"roles": [f"r{n}-{m}" for m in range(roles)]}}))
            tokens.keep(f"{n}" + "x" * 1000, Verified(identity, clock.now() + 60, SigningKey("kid", "RS256", None)))
        taken = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        assert 0.7 < tokens._entries.bytes / taken < 1.5


def test_refusals_are_bounded_in_bytes(clock: FakeClock) -> None:
    refused = RefusedTokens(clock, 1000)
    for n in range(300):
        refused.keep(str(n).ljust(32_000), invalid("token_expired", "x"))
    assert len(refused) == MAX_REFUSED_BYTES // (32_000 + 49 + 1000 + ENTRY_BYTES)


def test_a_refusal_is_repeated_for_a_while(clock: FakeClock) -> None:
    refused = RefusedTokens(clock, 10)
    first = invalid("token_expired", "the token has expired")
    refused.keep("t", first)
    with pytest.raises(Denied) as again:
        refused.ensure_unknown("t")
    assert again.value is not first
    assert (again.value.reason, again.value.code, again.value.detail) == (first.reason, first.code, first.detail)
    clock.advance(REFUSED_SECONDS)
    refused.ensure_unknown("t")
    refused.ensure_unknown("other")
    assert (refused.hits, len(refused)) == (1, 0)


def test_a_kept_refusal_holds_nothing_of_its_request(clock: FakeClock) -> None:
    refused = RefusedTokens(clock, 10)

    def request() -> ReferenceType[FakeClock]:
        large = FakeClock()
        try:
            raise invalid("token_expired", "x")
        except Denied as refusal:
            refused.keep("t", refusal)
        return ref(large)

    assert request()() is None
    assert len(refused) == 1


def test_refusals_are_bounded(clock: FakeClock) -> None:
    refused = RefusedTokens(clock, 1_000_000)
    for n in range(MAX_REFUSED + 50):
        refused.keep(str(n), invalid("token_expired", "x"))
    assert len(refused) == MAX_REFUSED
    refused.ensure_unknown("49")
