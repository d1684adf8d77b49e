"""What a replay of two policies found, and the lines that are printed of it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import NamedTuple, TypeVar

from msgspec import Struct, field

from ext_authz.decision import Reason
from ext_authz.policytool.explain import cause

T = TypeVar("T")

_EXAMPLES = 3
_MOST = 10
"""Rows of each table."""


class Verdict(NamedTuple):
    """What a policy decides about a call."""

    reason: str
    code: str

    @property
    def allows(self) -> bool:
        return self.reason == Reason.ALLOWED

    def __str__(self) -> str:
        return cause(self.reason, self.code).replace(", ", "/")


Change = tuple[str, str]
"""The old verdict and the new."""


class About(NamedTuple):
    """What of a recorded decision is in the report."""

    reason: str
    route: str
    subject: str


class Comparison(Struct):
    """What was found so far."""

    total: int = 0
    replayed: int = 0
    lost: int = 0
    """Were allowed by the old policy, and are refused by the new."""
    gained: int = 0
    """The other way round."""
    recoded: int = 0
    """Neither, and yet the reason or its code is another."""
    otherwise: int = 0
    """The old policy itself does not decide today what was recorded."""
    not_replayed: Counter[str] = field(default_factory=Counter)
    """By what was not recorded."""
    changes: Counter[Change] = field(default_factory=Counter)
    routes: Counter[tuple[str, Change]] = field(default_factory=Counter)
    users: Counter[tuple[str, Change]] = field(default_factory=Counter)
    examples: defaultdict[Change, list[str]] = field(default_factory=lambda: defaultdict(list))
    """The first decision ids."""
    first: datetime | None = None
    last: datetime | None = None

    @property
    def changed(self) -> int:
        return self.lost + self.gained + self.recoded

    def miss(self, what: str, count: int = 1) -> None:
        """So many more that could not be replayed, because this was not recorded."""
        self.not_replayed[what] += count

    def note(self, about: About, old: Verdict, new: Verdict, decision_id: str = "", count: int = 1) -> None:
        """More that both policies decided; those that come out differently by one, in the order of time."""
        self.replayed += count
        self.otherwise += count * (old.reason != about.reason)
        if old == new:
            return
        change = str(old), str(new)
        self.lost += count * (old.allows and not new.allows)
        self.gained += count * (new.allows and not old.allows)
        self.recoded += count * (old.allows == new.allows)
        self.changes[change] += count
        self.routes[about.route or "(no route)", change] += count
        self.users[about.subject or "(none)", change] += count
        if len(self.examples[change]) < _EXAMPLES:
            self.examples[change].append(decision_id)


def lines(found: Comparison) -> Iterator[str]:
    """The sum, what would change by reason, route and user with examples, and what cannot be replayed."""
    replayed = f"{found.replayed:,} replayed, {found.changed:,} would change"
    yield f"{found.total:,} recorded decisions{_period(found)}: {replayed}"
    if found.changed:
        yield f"{found.lost:,} would be refused, {found.gained:,} allowed, {found.recoded:,} with another reason"
        yield "by reason"
        for change, count in _most(found.changes):
            yield f"  {count:>9,}  {_arrow(change)}"
            yield f"             such as {', '.join(found.examples[change])}"
        yield from _table("by route", found.routes)
        yield from _table("by user", found.users)
    if found.not_replayed:
        yield f"not replayed: {found.not_replayed.total():,}, because this was not recorded"
        yield from (f"  {count:>9,}  {what}" for what, count in _most(found.not_replayed))
    if found.otherwise:
        yield f"{found.otherwise:,} were decided differently at the time than the old policy decides today"


def _period(found: Comparison) -> str:
    return f" from {_time(found.first)} to {_time(found.last)}" if found.first and found.last else ""


def _time(timestamp: datetime) -> str:
    return timestamp.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _table(title: str, counted: Counter[tuple[str, Change]]) -> Iterator[str]:
    yield title
    for (name, change), count in _most(counted)[:_MOST]:
        yield f"  {count:>9,}  {name}: {_arrow(change)}"
    if len(counted) > _MOST:
        yield f"             and {len(counted) - _MOST:,} more"


def _most(counted: Counter[T]) -> list[tuple[T, int]]:
    """The most frequent first; equal ones by name, so that the same decisions make the same report."""
    return sorted(counted.items(), key=lambda item: (-item[1], item[0]))


def _arrow(change: Change) -> str:
    return f"{change[0]} -> {change[1]}"
