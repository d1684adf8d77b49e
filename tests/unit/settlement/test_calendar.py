"""Periods of the calendar: where they end, month by month, leap years and weeks among them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext_authz.settlement.local import period_end
from tests.unit.settlement.calendar_periods import EDGES, EPOCH, PERIODS, begun, milliseconds
from tests.unit.settlement.world import DAY, HOUR, MONTH, WEEK, YEAR

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
        (YEAR, datetime(2025, 1, 1, tzinfo=UTC)),
    ],
    ids=["hour", "day", "week", "month", "year"],
)
def test_a_leap_day(period: int, expected: datetime) -> None:
    assert end(datetime(2024, 2, 29, 22, 30, tzinfo=UTC), period) == expected


@given(moment=moments, period=st.sampled_from(PERIODS))
def test_a_period_ends_where_the_next_begins(moment: datetime, period: int) -> None:
    found, first = end(moment, period), begun(moment, period)
    assert moment < found
    assert begun(found, period) == found
    assert begun(found - timedelta(milliseconds=1), period) == first
