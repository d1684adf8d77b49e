"""Two policies over the same recorded decisions, in the order of time, with their limits counted anew: where they part.

The decisions come from an export, one JSON object per line, or out of the ledger in Postgres.
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import cast

import msgspec
from msgspec import Struct, defstruct
from msgspec.structs import fields

from ext_authz.check import Check
from ext_authz.decision import DecisionIds, Deny, Reason
from ext_authz.errors import ConfigError
from ext_authz.ledger.event import StoredEvent
from ext_authz.ledger.queries import export_events
from ext_authz.phases.context import CheckContext
from ext_authz.policy.model import Policy
from ext_authz.policytool.comparison import About, Comparison, Verdict
from ext_authz.policytool.recorded import (
    NotRecorded,
    RecordedCallers,
    ensure_recorded,
    expressions,
    recorded_request,
    replayable,
    revoked_by,
)
from ext_authz.revocation.entry import Kind
from ext_authz.settings import DatabaseSettings, load_settings
from ext_authz.settlement.local import LocalLimits
from ext_authz.settlement.model import Outcome, QuotaRequest, Settlement, SettleRequest, SettleResult

_DRY_RUN_OVER = "dry_run_over_limit"
"""The code of an event that was allowed, and that a limit in dry run would have refused."""
_ALLOWED = Verdict(Reason.ALLOWED.value, "")
_DRY_RUN = Verdict(Reason.ALLOWED.value, _DRY_RUN_OVER)
_OVER_LIMIT = Verdict(Reason.OVER_LIMIT.value, Reason.OVER_LIMIT.value)
_OF_TIME = "time."
"""Variables of expressions that begin so differ between two calls that are equal in all else."""
TICK = 500

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
        self._starts = [start for *_, start in sorted(_times(path))]

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


def _times(path: Path) -> Iterator[tuple[float, str, int]]:
    """Of every line: when it was, which decision, and where it begins."""
    start = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    event = _decode(line)
                    yield event.occurred_at.timestamp(), event.decision_id, start
                except (msgspec.MsgspecError, UnicodeDecodeError) as wrong:
                    raise ConfigError(f"{path}:{number}: this is no recorded decision: {wrong}") from None
            start += len(line)


class Plan(Struct, frozen=True):
    """All that a policy decides of a call by the call itself. What limits say depends on the calls before."""

    verdict: Verdict = _ALLOWED
    """Unless a limit refuses."""
    missing: str = ""
    """What was not recorded, if the verdict depends on it."""
    quota_requests: tuple[QuotaRequest, ...] = ()
    """What it takes from limits, of those that can refuse."""
    is_timed: bool = False
    """An expression read the time of day: equal calls may have other plans."""


class Replay:
    """One policy over recorded decisions."""

    def __init__(self, policy: Policy, old: Policy) -> None:
        """`old`: the policy that most of them were made by."""
        policy = replayable(policy)
        self._clock = _Clock()
        self._callers = RecordedCallers(policy, old, self._clock)
        self._settlement = _Unlimited()
        self._limits = LocalLimits(self._clock)
        self._check = Check(policy, self._callers, self._settlement, DecisionIds(self._clock)).silent()

    async def plan(self, event: StoredEvent) -> Plan:
        """Of this policy; events may come in any order."""
        self._clock.at = event.occurred_at.timestamp()
        self._callers.event = event
        self._settlement.begin(revoked_by(event) if event.reason == Reason.REVOKED else None)
        context, verdict, missing = CheckContext(), _ALLOWED, ""
        try:
            decision = await self._check.decide(recorded_request(event), context)
            ensure_recorded(event, context)
            verdict = Verdict(decision.reason.value, decision.code) if isinstance(decision, Deny) else verdict
        except NotRecorded as what:
            missing = str(what)
        asked = tuple(quota for quota in self._settlement.asked if quota.cost)
        return Plan(verdict, missing, asked, _reads_time(context))

    def count(self, plan: Plan, at: float) -> Verdict:
        """The verdict of a call at this time, in seconds since the epoch; calls come in the order of time.

        Raises:
            NotRecorded: it depends on something that was not kept.
        """
        self._clock.at = at
        result = self._limits.take(plan.quota_requests) if plan.quota_requests else None
        if plan.missing:
            raise NotRecorded(plan.missing)
        if result is None:
            return plan.verdict
        if result.outcome is Outcome.LIMITED:
            return _OVER_LIMIT
        return _DRY_RUN if result.dry_run_over else _ALLOWED


class _Clock:
    """Stands where it is put."""

    at = 0.0

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at


class _Unlimited(Settlement):
    """Notes what would be taken from limits; who was revoked then is revoked."""

    def __init__(self) -> None:
        self._revoked_by: Kind | None = None
        self.asked: tuple[QuotaRequest, ...] = ()

    def begin(self, revoked_by: Kind | None) -> None:
        """One more call."""
        self._revoked_by, self.asked = revoked_by, ()

    async def settle(self, ask: SettleRequest) -> SettleResult:
        if self._revoked_by:
            return SettleResult(Outcome.REVOKED, revoked_by=self._revoked_by)
        self.asked = ask.quota_requests
        return SettleResult(Outcome.OK)

    def record(self, event: bytes) -> None:
        """Nothing is recorded."""


def _reads_time(context: CheckContext) -> bool:
    if context.match is None:
        return False
    return any(name.startswith(_OF_TIME) for each in expressions(context.match.route) for name in each.names)


class BothPolicies:
    """The old policy and the new over the same decisions; each counts its limits by itself."""

    def __init__(self, old: Policy, new: Policy) -> None:
        self.found = Comparison()
        self._before, self._after = Replay(old, old), Replay(new, old)

    async def plans(self, event: StoredEvent) -> tuple[Plan, Plan]:
        """Of both."""
        return await self._before.plan(event), await self._after.plan(event)

    def count(self, about: About, plans: tuple[Plan, Plan], at: float, decision_id: str) -> None:
        """One more decision, in the order of time."""
        old, new = plans
        try:
            pair = self._before.count(old, at), self._after.count(new, at)
        except NotRecorded as missing:
            self.found.miss(str(missing))
        else:
            self.found.note(about, *pair, decision_id)


def about(event: StoredEvent) -> About:
    """What a report says of it."""
    return About(event.reason, event.route, event.subject)


async def compare(
    old: Policy, new: Policy, decisions: AsyncIterable[StoredEvent], tick: Callable[[int], object]
) -> Comparison:
    """The decisions come in the order of time.

    `tick`: called from time to time with how many more were compared.
    """
    both = BothPolicies(old, new)
    found = both.found
    async for event in decisions:
        found.total += 1
        if found.total % TICK == 0:
            tick(TICK)
        found.first, found.last = found.first or event.occurred_at, event.occurred_at
        both.count(about(event), await both.plans(event), event.occurred_at.timestamp(), event.decision_id)
    return found
