"""The limit on refusals per address, before the caller is known: exact (GCRA), and bounded in memory."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext_authz.decision import Reason
from ext_authz.errors import Denied
from ext_authz.observability.metrics import FLOOD_REFUSED
from ext_authz.phases.flood_guard import FloodGuard

SECOND = 1_000_000
START = 1_795_179_600 * SECOND


def admitted(guard: FloodGuard, address: str, now: int) -> bool:
    """Whether a request from this address is processed; if so, it is refused for another reason."""
    try:
        guard.check(address, now)
    except Denied:
        return False
    guard.count(address, now)
    return True


def test_allows_the_burst_then_the_rate() -> None:
    guard = FloodGuard(50, 1, 100)
    assert sum(admitted(guard, "a", START) for _ in range(300)) == 100
    assert sum(admitted(guard, "a", START + SECOND) for _ in range(300)) == 50


def test_a_flood_from_one_address_touches_no_other() -> None:
    guard = FloodGuard(50, 1, 10)
    assert sum(admitted(guard, "a", START) for _ in range(1000)) == 10
    assert sum(admitted(guard, "b", START) for _ in range(10)) == 10


def test_the_refusal_has_retry_after() -> None:
    guard, before = FloodGuard(1, 3, 2), FLOOD_REFUSED._value.get()
    assert [admitted(guard, "a", START) for _ in range(2)] == [True, True]
    with pytest.raises(Denied) as refused:
        guard.check("a", START + SECOND // 2)

    assert (refused.value.reason, refused.value.code) == (Reason.OVER_LIMIT, "flood")
    assert refused.value.retry_after == 3
    assert "retry in 3 s" in refused.value.detail
    assert FLOOD_REFUSED._value.get() == before + 1
    assert not admitted(guard, "a", START + 3 * SECOND - 1)
    assert admitted(guard, "a", START + 3 * SECOND)


@given(
    rate=st.integers(1, 9),
    burst=st.integers(0, 6),
    gaps=st.lists(st.integers(0, SECOND), max_size=80),
)
def test_never_more_than_the_burst_and_the_rate(rate: int, burst: int, gaps: list[int]) -> None:
    guard, now, passed = FloodGuard(rate, 1, burst), START, []
    for gap in gaps:
        now += gap
        if admitted(guard, "a", now):
            passed.append(now)
    for start in passed:
        assert sum(start <= at < start + SECOND for at in passed) <= max(1, burst) + rate


def test_a_clock_that_is_set_back_refuses_no_address() -> None:
    guard = FloodGuard(1, 1, 2)
    assert [admitted(guard, "a", START) for _ in range(3)] == [True, True, False]
    hour_ago = START - 3600 * SECOND
    assert not admitted(guard, "a", hour_ago)
    assert admitted(guard, "a", hour_ago + SECOND)


def test_is_bounded_and_forgets_who_was_quiet_longest() -> None:
    guard = FloodGuard(1, 60, 1, most=100)
    for number in range(1000):
        assert admitted(guard, f"address {number}", START)
        assert not admitted(guard, "loud", START) or number == 0
        assert len(guard) <= 100


def test_looking_counts_nothing_and_keeps_nothing() -> None:
    guard = FloodGuard(1, 60, 2)
    for number in range(1000):
        guard.check("a", START)
        guard.check(f"address {number}", START)
    assert len(guard) == 0


def test_many_refusals_at_once_are_waited_for_no_longer_than_the_burst() -> None:
    """Requests that wait for keys together are all processed before one of them is refused."""
    guard = FloodGuard(1, 1, 5)
    for _ in range(1000):
        guard.count("a", START)
    assert not admitted(guard, "a", START)
    assert admitted(guard, "a", START + SECOND)


def test_a_flood_is_no_flood_of_log_lines(caplog: pytest.LogCaptureFixture) -> None:
    guard = FloodGuard(1, 1, 1)
    for _ in range(1000):
        admitted(guard, "203.0.113.9", START)
    assert [record.address for record in caplog.records] == ["203.0.113.9"] * 10  # type: ignore[attr-defined]
