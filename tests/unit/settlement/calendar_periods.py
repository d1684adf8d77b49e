"""The calendar by other means than the code: which period a moment is in, and the moments where that goes wrong."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from tests.unit.settlement.world import DAY, HOUR, MONTH, WEEK, YEAR

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MONTHS = tuple(MONTH + day - 1 for day in (2, 15, 28, 29, 30, 31))
"""That begin on these days, or on the last one of a shorter month."""
PERIODS = (HOUR, DAY, WEEK, MONTH, YEAR, *MONTHS)

EDGES = tuple(
    moment + timedelta(milliseconds=shift)
    for moment in (
        *(datetime(year, month, 1, tzinfo=UTC) for year in (1999, 2000, 2024, 2026, 2099) for month in range(1, 13)),
        *(datetime(year, 2, 28, 23, 59, 59, tzinfo=UTC) for year in (2000, 2023, 2024, 2100)),
        datetime(2024, 2, 29, tzinfo=UTC),
        datetime(2026, 11, 23, tzinfo=UTC),  # a Monday
        datetime(2100, 3, 1, tzinfo=UTC),
        datetime(1970, 1, 1, 1, tzinfo=UTC),
        datetime(2400, 2, 29, tzinfo=UTC),
    )
    for shift in (-1, 0, 1)
)


def begun(moment: datetime, period: int) -> datetime:
    """When the period of this moment began."""
    midnight = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    if period == HOUR:
        return moment.replace(minute=0, second=0, microsecond=0)
    if period == WEEK:
        return midnight - timedelta(days=moment.isoweekday() - 1)
    if period == MONTH:
        return midnight.replace(day=1)
    if period in MONTHS:
        return _nearest(midnight, period - MONTH + 1)
    return midnight.replace(day=1, month=1) if period == YEAR else midnight


def _nearest(midnight: datetime, day: int) -> datetime:
    """On this day of the month, or on the last one of a shorter month: the last such midnight, found day by day."""
    while not (midnight.day == day or (midnight.day < day and (midnight + timedelta(days=1)).day == 1)):
        midnight -= timedelta(days=1)
    return midnight


def milliseconds(moment: datetime) -> int:
    """Since 1970."""
    return (moment - EPOCH) // timedelta(milliseconds=1)
