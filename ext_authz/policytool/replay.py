"""What a policy would say today to decisions that were recorded, with its limits counted anew in the order of time.

Nothing is guessed: a decision that depends on what was not recorded ends in `NotRecorded`. One thing is taken as given:
a call that was refused before anybody looked for revocations is not revoked.
"""

from __future__ import annotations

from typing import NamedTuple

from msgspec.structs import replace

from ext_authz.check import Check
from ext_authz.decision import DecisionIds, Deny, Reason, Request
from ext_authz.ledger.decisions import RecordedDecision
from ext_authz.ledger.facts import Facts
from ext_authz.phases.context import CheckContext
from ext_authz.phases.flood_guard import CODE as FLOOD
from ext_authz.policy.cel.expressions import Amount, Condition
from ext_authz.policy.model import Policy
from ext_authz.policytool.door import TravelClock
from ext_authz.policytool.recorded_callers import RecordedCallers
from ext_authz.policytool.requests import GRPC
from ext_authz.policytool.unrecorded import Headers, KeptClaims, NotRecorded
from ext_authz.revocation.entry import Kind
from ext_authz.settlement.local import LocalLimits
from ext_authz.settlement.model import Outcome, Settlement, SettleRequest, SettleResult

DRY_RUN = "dry_run_over_limit"
_HEADERS = Headers()
_LONGEST_PATH = 512
"""Characters that an event keeps of it."""
_NO_VERDICT = (Reason.UNAVAILABLE, Reason.INTERNAL)


class Verdict(NamedTuple):
    """What came of a call."""

    reason: str
    code: str

    @property
    def allows(self) -> bool:
        return self.reason == Reason.ALLOWED

    def __str__(self) -> str:
        return f"{self.reason}/{self.code}" if self.code and self.code != self.reason else self.reason


class _Counters(Settlement):
    """Counts anew; who was revoked then is revoked."""

    def __init__(self, clock: TravelClock) -> None:
        self.revoked_by: Kind | None = None
        self.dry_run_over = False
        self._limits = LocalLimits(clock)

    async def settle(self, ask: SettleRequest) -> SettleResult:
        if self.revoked_by:
            return SettleResult(Outcome.REVOKED, revoked_by=self.revoked_by)
        answer = self._limits.take(ask.quota_requests)
        self.dry_run_over = answer.outcome is Outcome.OK and bool(answer.dry_run_over)
        return answer

    def record(self, event: bytes) -> None:
        """Nothing is written down."""


class Replay:
    """One policy on its way through recorded decisions, which come in the order of time."""

    def __init__(self, policy: Policy, old: Policy) -> None:
        """`old`: the policy that most of them were made by."""
        policy = replayable(policy)
        self._clock = TravelClock(0.0)
        self._callers = RecordedCallers(policy, old, self._clock)
        self._counters = _Counters(self._clock)
        self._check = Check(policy, self._callers, self._counters, DecisionIds(self._clock))

    async def verdict(self, event: RecordedDecision) -> Verdict:
        """What this policy makes of it.

        Raises:
            NotRecorded: it depends on something that nobody kept.
        """
        request = request_of(event)
        self._clock.travel(max(0.0, event.occurred_at.timestamp() - self._clock.now()))
        self._callers.event = event
        self._counters.revoked_by = revoked_by(event) if event.reason == Reason.REVOKED else None
        self._counters.dry_run_over = False
        found = CheckContext()
        decision = await self._check.decide(request, found)
        ensure_known(event, found)
        if isinstance(decision, Deny):
            return Verdict(decision.reason.value, decision.code)
        return Verdict(Reason.ALLOWED.value, DRY_RUN if self._counters.dry_run_over else "")


def replayable(policy: Policy) -> Policy:
    """Without what nobody can judge: each worker counts floods for itself, and a header may choose a variant."""
    return replace(policy, flood=None, experiments={})


def request_of(event: RecordedDecision) -> Request:
    """The call, as far as it was recorded.

    Raises:
        NotRecorded: not far enough.
    """
    facts = event.facts
    if event.reason in _NO_VERDICT:
        raise NotRecorded("a verdict: a dependency or the door itself had failed")
    if event.code == FLOOD:
        raise NotRecorded("who asked from an address that asked too often")
    if facts is None:
        raise NotRecorded("anything but the outcome")
    if len(event.path) >= _LONGEST_PATH:
        raise NotRecorded("the whole path")
    return Request(
        method=event.method,
        host=facts.host,
        path=event.path,
        authorization=("as it was",),
        content_type=GRPC if _spoke_grpc(event, facts) else "",
        headers=_HEADERS,
        source=facts.source,
        models=(event.model,) if event.model else (),
        versions=(event.model_version,) if event.model_version else (),
    )


def revoked_by(event: RecordedDecision) -> Kind:
    """Of a revoked call. Older versions did not say what was revoked: the token, then."""
    label = event.facts.revoked_by if event.facts else ""
    return next((kind for kind in Kind if kind.label == label), Kind.TOKEN)


def _spoke_grpc(event: RecordedDecision, facts: Facts) -> bool:
    """The facts say how the call is served."""
    return facts.grpc is not (event.code == "protocol_mismatch")


def ensure_known(event: RecordedDecision, found: CheckContext) -> None:
    """That nothing was looked at which cannot say by itself that it was not recorded."""
    if found.match is None:
        return
    if not event.route:
        raise NotRecorded("which protocol was spoken")
    route = found.match.route
    for expression in (route.when, *(rule.cost.expression for rule in route.limits)):
        if expression is not None:
            _ensure_answerable(expression, found)


def _ensure_answerable(expression: Condition | Amount, found: CheckContext) -> None:
    if "request.query" in expression.names:
        raise NotRecorded("the query")
    claims = found.identity.claims if found.identity else {}
    if not isinstance(claims, KeptClaims) or "identity.claims" not in expression.names:
        return
    missing = claims.unknown & expression.claims if expression.claims else claims.unknown
    if missing:
        raise NotRecorded(f"the claim {min(missing)}")
