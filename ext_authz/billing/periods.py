"""Billing periods: months in UTC, half-open, from the anchor of an account on."""

from __future__ import annotations

import calendar
from datetime import UTC, datetime
from typing import NamedTuple

_MONTHS = 12


class Period(NamedTuple):
    """`[start, end)`: two adjacent ones share no instant and miss none."""

    start: datetime
    end: datetime

    def __str__(self) -> str:
        return f"{self.start:%Y-%m-%dT%H:%MZ} to {self.end:%Y-%m-%dT%H:%MZ}"


def period_at(anchor: datetime, at: datetime) -> Period | None:
    """The period that contains `at`; None before the anchor. Both are in UTC."""
    if at < anchor:
        return None
    months = (at.year - anchor.year) * _MONTHS + at.month - anchor.month
    if months_after(anchor, months) > at:
        months -= 1
    return Period(months_after(anchor, months), months_after(anchor, months + 1))


def months_after(anchor: datetime, months: int) -> datetime:
    """The day of the anchor, or the last one of a month that is too short. Always from the anchor itself: after 28
    February follows 31 March again."""
    year, month = divmod(anchor.year * _MONTHS + anchor.month - 1 + months, _MONTHS)
    day = min(anchor.day, calendar.monthrange(year, month + 1)[1])
    return anchor.replace(year=year, month=month + 1, day=day)


def first_of_month(at: datetime) -> datetime:
    """Midnight of it, in UTC."""
    return at.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
