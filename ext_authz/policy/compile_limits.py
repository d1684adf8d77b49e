"""From `plans:`, `limits:` and `flood:` to `model.py`."""

from __future__ import annotations

from collections.abc import Mapping

from ext_authz.policy.cel.expressions import Amount
from ext_authz.policy.diagnostics import Diagnostics
from ext_authz.policy.documents.base import CALENDAR_PERIODS, PERIODS, rate
from ext_authz.policy.documents.limits import CLAIM, CostDocument, FloodDocument, LimitDocument, PlanDocument
from ext_authz.policy.model import DEFAULT_PLAN, Algorithm, Cost, Flood, Limit, LimitRule, Plan

_ALGORITHMS = {
    "fixed_window": Algorithm.FIXED_WINDOW,
    "sliding_window": Algorithm.SLIDING_WINDOW,
    "gcra": Algorithm.GCRA,
    "calendar": Algorithm.CALENDAR,
}


def plans(documents: Mapping[str, PlanDocument], diagnostics: Diagnostics) -> tuple[Plan, ...]:
    for name, document in documents.items():
        if name == DEFAULT_PLAN:
            what = f"{DEFAULT_PLAN} is the plan of callers without another"
            diagnostics.report_key(("plans", name), "reserved_name", what, "choose another name")
        if document.claim is not None:
            diagnostics.ensure_kept(("plans", name, "claim"), document.claim)
    return tuple(
        Plan(name, document.roles or frozenset(), document.claim or "", document.values or frozenset())
        for name, document in documents.items()
    )


def limits(
    documents: Mapping[str, LimitDocument],
    known_plans: Mapping[str, PlanDocument],
    diagnostics: Diagnostics,
) -> dict[str, LimitRule]:
    for name, document in documents.items():
        for plan in document.plans or {}:
            if plan != DEFAULT_PLAN and plan not in known_plans:
                diagnostics.report_undefined_key(("limits", name, "plans", plan), "plan", [*known_plans, DEFAULT_PLAN])
        for index, part in enumerate(document.key):
            if part.startswith(CLAIM):
                diagnostics.ensure_kept(("limits", name, "key", index), part.removeprefix(CLAIM))
    return {name: _limit(name, document, diagnostics) for name, document in documents.items()}


def _limit(name: str, document: LimitDocument, diagnostics: Diagnostics) -> LimitRule:
    by_plan = {plan: _of_plan(name, document, *amount) for plan, amount in document.rates().items()}
    return LimitRule(name, by_plan, _cost(name, document.cost, diagnostics), document.dry_run)


def _of_plan(name: str, document: LimitDocument, amount: int, period: str) -> Limit:
    algorithm = _ALGORITHMS[document.algorithm]
    burst = (document.burst or amount) if algorithm is Algorithm.GCRA else 0
    by_calendar = period if algorithm is Algorithm.CALENDAR else ""
    return Limit(name, document.key, amount, CALENDAR_PERIODS[period], algorithm, burst, by_calendar)


def _cost(name: str, document: int | CostDocument, diagnostics: Diagnostics) -> Cost:
    if isinstance(document, int):
        return Cost(amount=document, most=document)
    expression = diagnostics.expression(Amount.compile, document.cel, ("limits", name, "cost", "cel"))
    return Cost(header=document.header or "", expression=expression, most=document.max)


def flood(document: FloodDocument | None) -> Flood | None:
    if document is None:
        return None
    amount, period = rate(document.rate)
    return Flood(amount, PERIODS[period], document.burst or amount)
