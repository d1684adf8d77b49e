"""What is measured of some checks, or added up for a second, because measuring each would cost more than a phase does.

One check of `TIMED_ONE_IN` is timed phase by phase, and so is each that is traced.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from functools import cache
from itertools import pairwise
from time import perf_counter

from prometheus_client import Histogram

from ext_authz.decision import Decision, Deny, Reason, Request
from ext_authz.observability.metrics import (
    CHECK_PHASE_SECONDS,
    CHECK_SECONDS,
    CHECKS,
    LIMIT_REFUSED,
    LIMIT_USED,
    MODEL_CHECKS,
    REVOKED,
)
from ext_authz.observability.tracing import Tracer
from ext_authz.phases.context import CheckContext, TimedContext, most
from ext_authz.policy.rights import ModelRules

TIMED_ONE_IN = 64

_ALLOWED, _INTERNAL = Reason.ALLOWED.value, Reason.INTERNAL.value
_OUTCOMES = {
    _ALLOWED: "allowed",
    Reason.OVER_LIMIT.value: "limited",
    Reason.UNAVAILABLE.value: "unavailable",
    _INTERNAL: "unavailable",
}
"""Of all others: refused."""


class Measurements:
    """Of one worker."""

    def __init__(self, tracer: Tracer | None = None) -> None:
        self._tracer = tracer
        self._untimed = TIMED_ONE_IN
        self._seconds: list[float] = []
        self._counts: defaultdict[tuple[str, str, str, str, str], int] = defaultdict(int)

    def timed(self, request: Request, started: float) -> TimedContext | None:
        """For a check that is timed; `started`: when it was received, by `perf_counter`."""
        self._untimed -= 1
        parent = self._tracer.parent(request.headers) if self._tracer is not None else None
        if parent is None and self._untimed:
            return None
        self._untimed = self._untimed or TIMED_ONE_IN
        return TimedContext(parent=parent, marks=[("read", started)])

    def answered(self, context: CheckContext, decision: Decision | None, seconds: float) -> None:
        """When the response is built; without a decision, where even a refusal failed."""
        self._seconds.append(seconds)
        if decision is None:
            self._counts["", _INTERNAL, "", "", ""] += 1
            return
        reason = _refusal(context, decision) if isinstance(decision, Deny) else _ALLOWED
        self._counts[decision.route, reason, context.model, context.variant, context.plan] += 1
        if isinstance(context, TimedContext):
            self._record(context, decision)

    def _record(self, context: TimedContext, decision: Decision) -> None:
        marks = [*context.marks, ("", perf_counter())]
        for (phase, begin), (_, end) in pairwise(marks):
            _times_of(phase).observe(end - begin)
        full = {limit.name: most(limit) for limit in context.limits}
        for quota in decision.quotas:
            LIMIT_USED.labels(quota.name).observe(1 - quota.remaining / full[quota.name])
        if self._tracer and context.parent:
            self._tracer.export(context.parent, marks, _attributes(context, decision))

    def publish(self, models: ModelRules) -> None:
        """Once a second. Callers may name any model, so it is added up by names of the policy, before `labels`: with a
        name of its own in each check, that would hold the checks up."""
        counts, self._counts = self._counts, defaultdict(int)
        seconds, self._seconds = self._seconds, []
        CHECK_SECONDS.observe_all(seconds)
        by_route: Counter[tuple[str, str]] = Counter()
        by_model: Counter[tuple[str, str, str, str]] = Counter()
        for (route, reason, model, variant, plan), count in counts.items():
            by_route[route, reason] += count
            if model:
                rule = models.rule(model)
                by_model[rule.name if rule else "", variant, plan, _OUTCOMES.get(reason, "refused")] += count
        for (route, reason), count in by_route.items():
            CHECKS.labels(route, reason).inc(count)
        for labels, count in by_model.items():
            MODEL_CHECKS.labels(*labels).inc(count)


@cache
def _times_of(phase: str) -> Histogram:
    """`labels` costs more than the observation."""
    return CHECK_PHASE_SECONDS.labels(phase)


def _refusal(context: CheckContext, deny: Deny) -> str:
    """Its reason. What refuses is counted here, and not where the candidate policy passes too."""
    if deny.revoked_by:
        REVOKED.labels(deny.revoked_by).inc()
    if deny.reason is Reason.OVER_LIMIT and context.settle_result and context.limits:
        LIMIT_REFUSED.labels(context.limits[context.settle_result.limited_by].name).inc()
    return deny.reason.value  # the hash of a member is no cheap one


def _attributes(context: CheckContext, decision: Decision) -> dict[str, str]:
    """Nothing about the caller: the ledger has that, under the decision id."""
    reason, code = (decision.reason, decision.code) if isinstance(decision, Deny) else (Reason.ALLOWED, "")
    found = {
        "decision_id": decision.decision_id,
        "route": context.route,
        "reason": reason.value,
        "code": code,
        "model": context.model,
        "version": context.version,
        "variant": context.variant,
        "degraded": context.degraded,
    }
    return {f"tollgate.{name}": value for name, value in found.items() if value}
