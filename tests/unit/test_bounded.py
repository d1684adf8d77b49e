"""A cache that callers cannot make large, whatever they are called and whatever they send."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ext_authz.bounded import ENTRY_BYTES, BoundedCache
from ext_authz.decision import Allow, Deny, Principal, Reason
from ext_authz.edge.response import Responder
from ext_authz.policy.model import Responses
from tests.unit.check.scenarios import ALICE


def test_the_oldest_goes_first() -> None:
    cache: BoundedCache[str, int] = BoundedCache(2 * (ENTRY_BYTES + 10))
    for number, key in enumerate("abc"):
        cache.put(key, number, 10)
    assert (cache.get("a"), cache.get("b"), cache.get("c")) == (None, 1, 2)


def test_an_entry_larger_than_the_cache_is_not_kept_and_evicts_no_other() -> None:
    cache: BoundedCache[str, int] = BoundedCache(1000)
    cache.put("a", 1, 10)
    cache.put("b", 2, 1000)
    assert (len(cache), cache.get("a"), "b" in cache) == (1, 1, False)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 900), st.booleans())))
def test_it_never_holds_more_than_it_may_and_counts_right(steps: list[tuple[int, int, bool]]) -> None:
    cache: BoundedCache[int, int] = BoundedCache(2000)
    sizes: dict[int, int] = {}
    for key, size, put in steps:
        if put:
            cache.put(key, size, size)
            sizes[key] = size + ENTRY_BYTES
        else:
            cache.pop(key)
        assert cache.bytes == sum(sizes[key] for key in sizes if key in cache) <= 2000


def test_callers_with_many_roles_do_not_fill_the_answers_that_are_kept() -> None:
    responder = Responder("realm", Responses(), "0123")
    roles = tuple(f"role-{number:0200}" for number in range(150))
    for number in range(600):
        caller = Principal(ALICE.issuer, f"user-{number}", "web-app", roles)
        responder.build(Allow("0" * 36, caller, "infer"), request_is_grpc=False)
        responder.build(Deny("0" * 36, Reason.FORBIDDEN, "x", "y", principal=caller), request_is_grpc=False)
    assert 1 << 20 < responder._callers.bytes <= 16 << 20
    assert responder._refused.bytes <= 4 << 20
