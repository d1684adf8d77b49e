"""A comparison as lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime

from ext_authz.policytool.comparison import Change, Comparison

_MOST = 10
"""Rows of each table."""


def lines(found: Comparison) -> Iterator[str]:
    """The sum, what would change by reason, route and user with examples, and what nobody can tell."""
    yield f"{found.total:,} recorded decisions{_period(found)}: {found.judged:,} judged, {found.changed:,} would change"
    if found.changed:
        yield f"{found.lost:,} would be refused, {found.gained:,} let through, {found.recoded:,} told another reason"
        yield from _changes(found)
        yield from _table("by route", found.routes)
        yield from _table("by user", found.users)
    if found.not_judged:
        yield f"not judged: {found.not_judged.total():,}, because this was not recorded"
        yield from (f"  {count:>9,}  {what}" for what, count in found.not_judged.most_common())
    if found.otherwise:
        yield f"{found.otherwise:,} were decided otherwise at the time than the old policy says today"


def _period(found: Comparison) -> str:
    return f" from {_time(found.first)} to {_time(found.last)}" if found.first and found.last else ""


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _changes(found: Comparison) -> Iterator[str]:
    yield "by reason"
    for change, count in found.changes.most_common():
        yield f"  {count:>9,}  {_arrow(change)}"
        yield f"             such as {', '.join(found.examples[change])}"


def _table(title: str, counted: Counter[tuple[str, Change]]) -> Iterator[str]:
    yield title
    for (name, change), count in counted.most_common(_MOST):
        yield f"  {count:>9,}  {name}: {_arrow(change)}"
    if len(counted) > _MOST:
        yield f"             and {len(counted) - _MOST:,} more"


def _arrow(change: Change) -> str:
    return f"{change[0]} -> {change[1]}"
