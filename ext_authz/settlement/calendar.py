"""When a period of the calendar ends, in UTC; `settlement/calendar.lua` says the same to Redis."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

_DAY = 86_400_000
_WEEK = 7 * _DAY
_MONTH = 31 * _DAY
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def period_end(now: int, period: int) -> int:
    """All in ms. A period is named by its longest length; up to a day all are equally long, weeks begin on Monday."""
    if period <= _DAY:
        return now - now % period + period
    today = (_EPOCH + timedelta(milliseconds=now)).replace(hour=0, minute=0, second=0, microsecond=0)
    if period == _WEEK:
        end = today + timedelta(days=7 - today.weekday())
    elif period == _MONTH:
        end = (today.replace(day=1) + timedelta(days=31)).replace(day=1)
    else:
        end = today.replace(year=today.year + 1, month=1, day=1)
    return (end - _EPOCH) // timedelta(milliseconds=1)
