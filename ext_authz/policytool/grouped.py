"""A replay that decides once about all calls that are equal but for their time, and counts limits call by call.

Two calls are equal if a policy cannot tell them apart, whenever they come within the lives of their tokens: all columns
that a replay reads are the same, but for the id and the time of the decision, and of the token its id, its session and
when it was issued. How long it lives is the same. Whether it was valid depends on how old it was: what holds of the
youngest and of the oldest token holds of all between. What reads the time of day is decided call by call.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from ext_authz.ledger import parquet
from ext_authz.ledger.event import StoredEvent
from ext_authz.policy.model import Policy
from ext_authz.policytool.comparison import About, Comparison
from ext_authz.policytool.replay import BothPolicies, Plan, about

ALIKE = (
    *("issuer", "subject", "client", "route", "model", "model_version", "method", "path", "reason", "code", "policy"),
    *("record", "token", "of_session", "lifetime"),
)
"""The columns that equal calls have in common."""
ORDINARY = "[0-9A-Za-z._:/+=-]{1,200}"
"""Ids of tokens and sessions of which one is as good as another, where no limit counts by token."""
LIGHTWEIGHT = "[a-z]{2}lt[a-z]{2}:.*"
"""But for the ids of Keycloak's lightweight tokens (`identity.claims.is_lightweight`)."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Group(Struct, frozen=True):
    """Calls that are equal."""

    youngest: StoredEvent
    """With the token as old as it was in the first moment of its life that was seen."""
    oldest: StoredEvent


class Known(Struct, frozen=True):
    """What two policies decide of a group."""

    about: About
    plans: tuple[Plan, Plan] | None
    """None: each call has its own."""
    event: StoredEvent | None
    """Where there are none."""

    @property
    def depends_on_calls(self) -> bool:
        """On each one, or on limits; or the verdict changes, and the first calls are examples of it."""
        if self.plans is None:
            return True
        old, new = self.plans
        if old.quota_requests or old.missing:
            return bool(old.quota_requests)
        if new.quota_requests or new.missing:
            return bool(new.quota_requests)
        return old.verdict != new.verdict


class Call(Struct, frozen=True):
    """What equal calls do not have in common."""

    at_us: int
    """Microseconds since the epoch."""
    decision_id: str
    token_id: str
    session: str
    issued_at: int
    expires_at: float


def by_token(*policies: Policy) -> bool:
    """A limit counts by token: calls with two tokens are not equal."""
    return any("token" in rule.key for policy in policies for route in policy.routes for rule in route.limits)


def moment(at: int) -> datetime:
    """Of microseconds since the epoch, exactly."""
    return _EPOCH + timedelta(microseconds=at)


def group_of(row: Mapping[str, Any]) -> Group:
    """By the columns `ALIKE`, and the ages and times of issue of its youngest and oldest token."""
    youngest, oldest = (_event(row, row[end], row[f"issued_to_{end}"]) for end in ("youngest", "oldest"))
    return Group(youngest, oldest)


def _event(row: Mapping[str, Any], age: int, issued_at: int) -> StoredEvent:
    """One that is as good as any other of its age; `age` in microseconds."""
    token = {"token_id": row["token"], "session": row["of_session"], "issued_at": issued_at}
    token["expires_at"] = issued_at + row["lifetime"]
    occurred_at = moment(issued_at * 1_000_000 + age)
    return parquet.joined({**row, **token, "decision_id": "", "occurred_at": occurred_at})


class GroupedReplay:
    """First all groups, in any order; then the calls of those that `add` did not settle, in the order of time."""

    def __init__(self, old: Policy, new: Policy) -> None:
        self._both = BothPolicies(old, new)

    @property
    def found(self) -> Comparison:
        return self._both.found

    async def known(self, group: Group) -> Known:
        """What both policies decide of a group."""
        plans = await self._both.plans(group.youngest)
        is_one = group.youngest == group.oldest or plans == await self._both.plans(group.oldest)
        same = is_one and not any(plan.is_timed for plan in plans)
        return Known(about(group.youngest), plans if same else None, None if same else group.youngest)

    def see(self, first: datetime, last: datetime, count: int) -> None:
        """So many more decisions, of that time."""
        found = self.found
        found.total += count
        found.first, found.last = min(found.first or first, first), max(found.last or last, last)

    def settle(self, known: Known, count: int) -> bool:
        """Counts a group whose calls need not be looked at; whether it is one."""
        if known.plans is None or known.depends_on_calls:
            return False
        old, new = known.plans
        if missing := old.missing or new.missing:
            self.found.miss(missing, count)
        else:
            self.found.note(known.about, old.verdict, new.verdict, count=count)
        return True

    async def count(self, known: Known, call: Call) -> None:
        """One call of a group that was not settled; calls come in the order of time."""
        plans = known.plans
        if plans is None and known.event is not None:
            plans = await self._both.plans(_at(known.event, call))
        if plans is not None:
            self._both.count(known.about, plans, call.at_us / 1e6, call.decision_id)


def _at(event: StoredEvent, call: Call) -> StoredEvent:
    record = event.record
    if record is not None:
        record = replace(record, session=call.session, issued_at=call.issued_at, expires_at=call.expires_at)
    return replace(event, token_id=call.token_id, occurred_at=moment(call.at_us), record=record)
