"""Limits counted in this process: how many counters, when a period ends, what a sliding window holds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext_authz.errors import Unavailable
from ext_authz.settlement.local import LocalLimits, SlidingWindow, period_end
from ext_authz.settlement.model import Outcome
from tests.fakes import FakeClock
from tests.unit.settlement.calendar_periods import EDGES, EPOCH, PERIODS, begun, milliseconds
from tests.unit.settlement.world import DAY, HOUR, MONTH, WEEK, YEAR, gcra, window


def full() -> tuple[FakeClock, LocalLimits]:
    clock = FakeClock()
    limits = LocalLimits(clock, size=3)
    for take in (window(2, key="a"), window(2, key="b"), gcra(2, 2, key="c")):
        limits.take((take,))
    return clock, limits


def test_one_counter_too_many_is_no_way_in_and_harms_no_other() -> None:
    _, limits = full()
    with pytest.raises(Unavailable, match="too many"):
        limits.take((window(2, key="d"),))
    assert [limits.take((window(2, key="a"),)).outcome for _ in range(2)] == [Outcome.OK, Outcome.LIMITED]
    assert limits.take((gcra(2, 2, key="c"),)).outcome is Outcome.OK


def test_counters_that_ran_out_make_room_for_others() -> None:
    clock, limits = full()
    clock.advance(30)
    with pytest.raises(Unavailable):
        limits.take((window(2, key="d"), window(2, key="e")))
    clock.advance(30)
    assert limits.take((window(2, key="d"), window(2, key="e"))).remaining == (1, 1)
    assert len(limits) == 2


moments = st.integers(0, 530 * YEAR).map(lambda ms: EPOCH + timedelta(milliseconds=ms)) | st.sampled_from(EDGES)


def end(moment: datetime, period: int) -> datetime:
    return EPOCH + timedelta(milliseconds=period_end(milliseconds(moment), period))


@pytest.mark.parametrize(
    ("period", "expected"),
    [
        (HOUR, datetime(2024, 2, 29, 23, tzinfo=UTC)),
        (DAY, datetime(2024, 3, 1, tzinfo=UTC)),
        (WEEK, datetime(2024, 3, 4, tzinfo=UTC)),
        (MONTH, datetime(2024, 3, 1, tzinfo=UTC)),
        (MONTH + 1, datetime(2024, 3, 2, tzinfo=UTC)),
        (MONTH + 30, datetime(2024, 3, 31, tzinfo=UTC)),
        (YEAR, datetime(2025, 1, 1, tzinfo=UTC)),
    ],
    ids=["hour", "day", "week", "month", "month from the 2nd", "month from the 31st", "year"],
)
def test_a_leap_day(period: int, expected: datetime) -> None:
    assert end(datetime(2024, 2, 29, 22, 30, tzinfo=UTC), period) == expected


@given(moment=moments, period=st.sampled_from(PERIODS))
def test_a_period_ends_where_the_next_begins(moment: datetime, period: int) -> None:
    found, first = end(moment, period), begun(moment, period)
    assert moment < found
    assert begun(found, period) == found
    assert begun(found - timedelta(milliseconds=1), period) == first


MINUTE = 60_000
NOW = 1_795_179_600_000


def test_hits_of_the_future_happened_now() -> None:
    window = SlidingWindow()
    window.take(NOW, MINUTE, 3)
    hour_ago = NOW - 60 * MINUTE

    assert window.wait(hour_ago, 3, MINUTE, 1) == MINUTE
    assert window.wait(hour_ago + MINUTE - 1, 3, MINUTE, 1) == 1
    assert window.wait(hour_ago + MINUTE, 3, MINUTE, 3) == 0


def test_waits_for_as_many_slices_as_it_takes() -> None:
    window = SlidingWindow()
    for seconds in (0, 10, 20):
        window.take(NOW + seconds * 1000, MINUTE, 2)
    now = NOW + 30_000
    assert [window.wait(now, 6, MINUTE, cost) for cost in (1, 2, 3, 4, 5, 6)] == [
        *(30_000, 30_000),
        *(40_000, 40_000),
        *(50_000, 50_000),
    ]


def test_is_whole_a_window_after_the_last_hit() -> None:
    window = SlidingWindow()
    window.take(NOW, MINUTE, 1)
    window.take(NOW + 1000, MINUTE, 1)
    assert window.whole_at == NOW + 1000 + MINUTE
    window.wait(NOW + 2 * MINUTE, 1, MINUTE, 1)
    assert (window.total, window.whole_at) == (0, 0)
