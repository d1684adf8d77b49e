"""What is measured of some checks, or added up for a second, because measuring each would cost more than a phase does.

One check of `TIMED_ONE_IN` is timed phase by phase, and so is each that is traced.
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from time import perf_counter

from ext_authz.decision import Decision, Deny, Reason, Request
from ext_authz.observability.metrics import CHECK_PHASE_SECONDS, LIMIT_REFUSED, LIMIT_USED, MODEL_CHECKS
from ext_authz.observability.tracing import Tracer
from ext_authz.phases.context import CheckContext, TimedContext
from ext_authz.policy.rights import ModelRules

TIMED_ONE_IN = 64

_OUTCOMES = {
    Reason.ALLOWED: "allowed",
    Reason.OVER_LIMIT: "limited",
    Reason.UNAVAILABLE: "unavailable",
    Reason.INTERNAL: "unavailable",
}
"""Of all others: refused."""


class Measurements:
    """Of one worker."""

    def __init__(self, tracer: Tracer | None = None) -> None:
        self._tracer = tracer
        self._checks = 0
        self._by_model: Counter[tuple[str, str, str, Reason]] = Counter()

    def context(self, request: Request, started: float) -> TimedContext | None:
        """For a check that is timed; `started`: when it was received, by `perf_counter`."""
        self._checks += 1
        parent = self._tracer.parent(request.headers) if self._tracer else None
        if parent is None and self._checks % TIMED_ONE_IN:
            return None
        return TimedContext(parent=parent, marks=[("read", started)])

    def decided(self, context: CheckContext, decision: Decision) -> None:
        """Every check that could be read. The response of a timed one is built next."""
        if context.model:
            reason = decision.reason if isinstance(decision, Deny) else Reason.ALLOWED
            self._by_model[context.model, context.variant, context.plan, reason] += 1
            if reason is Reason.OVER_LIMIT and context.settle_result and context.limits:
                LIMIT_REFUSED.labels(context.limits[context.settle_result.limited_by].name).inc()

    def answered(self, context: TimedContext, decision: Decision) -> None:
        """A timed check, when its response is built."""
        marks = [*context.marks, ("", perf_counter())]
        for (phase, begin), (_, end) in pairwise(marks):
            CHECK_PHASE_SECONDS.labels(phase).observe(end - begin)
        for quota in decision.quotas:
            LIMIT_USED.labels(quota.name).observe(1 - quota.remaining / quota.limit)
        if self._tracer and context.parent:
            self._tracer.export(context.parent, marks, _attributes(context, decision))

    def publish(self, models: ModelRules) -> None:
        """Once a second. A model is named as in the policy: a caller may name any."""
        for (model, variant, plan, reason), count in self._by_model.items():
            rule = models.rule(model)
            labels = (rule.name if rule else "", variant, plan, _OUTCOMES.get(reason, "refused"))
            MODEL_CHECKS.labels(*labels).inc(count)
        self._by_model.clear()


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
