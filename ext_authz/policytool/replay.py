"""Two policies over the same recorded decisions, in the order of time, with their limits counted anew: where they part.

The decisions come from an export, one JSON object per line, or out of the ledger in Postgres.
"""

from __future__ import annotations

import tempfile
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, cast

import msgspec
from msgspec import Struct, defstruct, field
from msgspec.structs import fields

from ext_authz.check import Check
from ext_authz.decision import DecisionIds, Deny, Reason
from ext_authz.errors import ConfigError
from ext_authz.ledger.event import StoredEvent
from ext_authz.ledger.queries import export_events
from ext_authz.phases.context import CheckContext
from ext_authz.policy.model import Policy
from ext_authz.policytool.explain import cause
from ext_authz.policytool.recorded import (
    NotRecorded,
    RecordedCallers,
    ensure_recorded,
    recorded_request,
    replayable,
    revoked_by,
)
from ext_authz.policytool.simulator import TravelClock
from ext_authz.revocation.entry import Kind
from ext_authz.settings import DatabaseSettings, load_settings
from ext_authz.settlement.local import LocalLimits
from ext_authz.settlement.model import Outcome, Settlement, SettleRequest, SettleResult

_DRY_RUN_OVER = "dry_run_over_limit"
"""The code of an event that was allowed, and that a limit in dry run would have refused."""
_EXAMPLES = 3
_TICK = 500
_MOST = 10
"""Rows of each table."""

# An export has every field. Where one is missing, the default of an event would be read in its place: "allowed". Only
# user names and outcomes, by which nothing is decided, are in none of an older version.
_Exported = cast(
    "type[StoredEvent]",
    defstruct(
        "_Exported",
        [(each.name, each.type) for each in fields(StoredEvent) if each.name not in ("username", "outcome")],
        bases=(StoredEvent,),
        frozen=True,
        kw_only=True,
    ),
)
_decode = msgspec.json.Decoder(_Exported).decode


class LedgerFile:
    """Lines of `tollgate usage export`. Read twice: what came out of order is put in order, a line at a time."""

    def __init__(self, path: Path) -> None:
        """Raises ConfigError, naming the line, where one is no decision."""
        self._path = path
        self._starts = [start for _, start in sorted(_times(path))]

    def __len__(self) -> int:
        return len(self._starts)

    async def decisions(self) -> AsyncIterator[StoredEvent]:
        """In the order of time."""
        with self._path.open("rb") as file:
            for start in self._starts:
                if file.tell() != start:
                    file.seek(start)
                yield _decode(file.readline())


@asynccontextmanager
async def ledger_of_postgres(since: datetime, until: datetime) -> AsyncGenerator[LedgerFile]:
    """What the ledger holds of this period, for as long as the context lasts in a file of its own: rows have no order.

    Raises:
        Unavailable: "postgres".
    """
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "ledger.jsonl"
        with path.open("wb") as file:
            await export_events(load_settings(DatabaseSettings).database_url, since, until, file)
        yield LedgerFile(path)


def _times(path: Path) -> Iterator[tuple[float, int]]:
    """Of every line: when it was, and where it begins."""
    start = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    yield _decode(line).occurred_at.timestamp(), start
                except (msgspec.MsgspecError, UnicodeDecodeError) as wrong:
                    raise ConfigError(f"{path}:{number}: this is no recorded decision: {wrong}") from None
            start += len(line)


class Verdict(NamedTuple):
    """What a policy decides about a call."""

    reason: str
    code: str

    @property
    def allows(self) -> bool:
        return self.reason == Reason.ALLOWED

    def __str__(self) -> str:
        return cause(self.reason, self.code).replace(", ", "/")


class Replay:
    """One policy over recorded decisions, which come in the order of time."""

    def __init__(self, policy: Policy, old: Policy) -> None:
        """`old`: the policy that most of them were made by."""
        policy = replayable(policy)
        self._clock = TravelClock(0.0)
        self._callers = RecordedCallers(policy, old, self._clock)
        self._counters = _Counters(self._clock)
        self._check = Check(policy, self._callers, self._counters, DecisionIds(self._clock)).silent()

    async def verdict(self, event: StoredEvent) -> Verdict:
        """Of this policy.

        Raises:
            NotRecorded: it depends on something that was not kept.
        """
        request = recorded_request(event)
        self._clock.travel(max(0.0, event.occurred_at.timestamp() - self._clock.now()))
        self._callers.event = event
        self._counters.revoked_by = revoked_by(event) if event.reason == Reason.REVOKED else None
        context = CheckContext()
        decision = await self._check.decide(request, context)
        ensure_recorded(event, context)
        if isinstance(decision, Deny):
            return Verdict(decision.reason.value, decision.code)
        over = context.settle_result and context.settle_result.dry_run_over
        return Verdict(Reason.ALLOWED.value, _DRY_RUN_OVER if over else "")


class _Counters(Settlement):
    """Counts anew; who was revoked then is revoked."""

    def __init__(self, clock: TravelClock) -> None:
        self.revoked_by: Kind | None = None
        self._limits = LocalLimits(clock)

    async def settle(self, ask: SettleRequest) -> SettleResult:
        if self.revoked_by:
            return SettleResult(Outcome.REVOKED, revoked_by=self.revoked_by)
        return self._limits.take(ask.quota_requests)

    def record(self, event: bytes) -> None:
        """Nothing is recorded."""


Change = tuple[str, str]
"""The old verdict and the new."""


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

    def note(self, event: StoredEvent, old: Verdict, new: Verdict) -> None:
        """One more that both policies decided."""
        self.replayed += 1
        self.otherwise += old.reason != event.reason
        if old == new:
            return
        change = str(old), str(new)
        self.lost += old.allows and not new.allows
        self.gained += new.allows and not old.allows
        self.recoded += old.allows == new.allows
        self.changes[change] += 1
        self.routes[event.route or "(no route)", change] += 1
        self.users[event.subject or "(none)", change] += 1
        if len(self.examples[change]) < _EXAMPLES:
            self.examples[change].append(str(event.decision_id))


async def compare(
    old: Policy, new: Policy, decisions: AsyncIterable[StoredEvent], tick: Callable[[int], object]
) -> Comparison:
    """Both policies count their limits by themselves; the decisions come in the order of time.

    `tick`: called from time to time with how many more were compared.
    """
    found = Comparison()
    before, after = Replay(old, old), Replay(new, old)
    async for event in decisions:
        found.total += 1
        if found.total % _TICK == 0:
            tick(_TICK)
        found.first, found.last = found.first or event.occurred_at, event.occurred_at
        try:
            pair = await before.verdict(event), await after.verdict(event)
        except NotRecorded as missing:
            found.not_replayed[str(missing)] += 1
        else:
            found.note(event, *pair)
    return found


def lines(found: Comparison) -> Iterator[str]:
    """The sum, what would change by reason, route and user with examples, and what cannot be replayed."""
    replayed = f"{found.replayed:,} replayed, {found.changed:,} would change"
    yield f"{found.total:,} recorded decisions{_period(found)}: {replayed}"
    if found.changed:
        yield f"{found.lost:,} would be refused, {found.gained:,} allowed, {found.recoded:,} with another reason"
        yield "by reason"
        for change, count in found.changes.most_common():
            yield f"  {count:>9,}  {_arrow(change)}"
            yield f"             such as {', '.join(found.examples[change])}"
        yield from _table("by route", found.routes)
        yield from _table("by user", found.users)
    if found.not_replayed:
        yield f"not replayed: {found.not_replayed.total():,}, because this was not recorded"
        yield from (f"  {count:>9,}  {what}" for what, count in found.not_replayed.most_common())
    if found.otherwise:
        yield f"{found.otherwise:,} were decided differently at the time than the old policy decides today"


def _period(found: Comparison) -> str:
    return f" from {_time(found.first)} to {_time(found.last)}" if found.first and found.last else ""


def _time(timestamp: datetime) -> str:
    return timestamp.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _table(title: str, counted: Counter[tuple[str, Change]]) -> Iterator[str]:
    yield title
    for (name, change), count in counted.most_common(_MOST):
        yield f"  {count:>9,}  {name}: {_arrow(change)}"
    if len(counted) > _MOST:
        yield f"             and {len(counted) - _MOST:,} more"


def _arrow(change: Change) -> str:
    return f"{change[0]} -> {change[1]}"
