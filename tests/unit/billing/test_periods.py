"""Months from the day of the anchor."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from ext_authz.billing.periods import Period, first_of_month, period_at


def day(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("anchor", "at", "start", "end"),
    [
        ("2026-11-01", "2026-11-01", "2026-11-01", "2026-12-01"),
        ("2026-11-01", "2026-11-30 23:59:59.999999", "2026-11-01", "2026-12-01"),
        ("2026-11-15", "2026-12-14 23:59", "2026-11-15", "2026-12-15"),
        ("2026-11-15", "2027-01-15", "2027-01-15", "2027-02-15"),
        ("2026-01-31", "2026-02-27", "2026-01-31", "2026-02-28"),
        ("2026-01-31", "2026-02-28", "2026-02-28", "2026-03-31"),
        ("2026-01-31", "2026-03-31", "2026-03-31", "2026-04-30"),
        ("2028-01-31", "2028-02-28", "2028-01-31", "2028-02-29"),
    ],
)
def test_the_period_of_a_time(anchor: str, at: str, start: str, end: str) -> None:
    assert period_at(day(anchor), day(at)) == Period(day(start), day(end))


def test_there_is_none_before_the_anchor() -> None:
    assert period_at(day("2026-11-15"), day("2026-11-14 23:59")) is None


def test_the_first_of_a_month_is_that_of_utc() -> None:
    assert first_of_month(datetime.fromisoformat("2026-12-01T00:30:00+01:00")) == day("2026-11-01")
