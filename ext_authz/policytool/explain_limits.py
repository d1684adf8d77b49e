"""Phase 4 explained: what every limit of the route asks of this call."""

from __future__ import annotations

from ext_authz.decision import Deny, Quota, Reason
from ext_authz.phases.descriptors import plan_of
from ext_authz.policy.model import Limit
from ext_authz.policytool.account import NOT_ASKED, Statement
from ext_authz.policytool.counters import key_values
from ext_authz.policytool.door import Asked
from ext_authz.settlement.model import QuotaRequest


def limits(asked: Asked) -> Statement:
    """Every limit with what it counts by, what the call costs, and what is left."""
    charge, identity = asked.found.charge, asked.found.identity
    revoked = isinstance(asked.decision, Deny) and asked.decision.reason is Reason.REVOKED
    if charge is None or identity is None or revoked:
        return Statement("limits", note=NOT_ASKED)
    quotas = {quota.name: quota for quota in asked.decision.quotas}
    refused = isinstance(asked.decision, Deny)
    quota_requests = zip(charge.limits, charge.quota_requests(asked.request, asked.now), strict=True)
    parts = tuple(_limit(limit, take, quotas.get(limit.name), refused=refused) for limit, take in quota_requests)
    plan = Statement("plan", note=plan_of(identity, asked.policy.plans))
    detail = asked.decision.detail if isinstance(asked.decision, Deny) else ""
    return Statement("limits", not refused, detail, (plan, *parts) if asked.policy.plans else parts)


def _limit(limit: Limit, take: QuotaRequest, quota: Quota | None, *, refused: bool) -> Statement:
    """Of a refused request nothing was taken: a limit without room for it is what refused it."""
    values = ", ".join(f"{part} {value}" for part, value in key_values(take, limit.key).items())
    note = f"counted by {values}; costs {take.cost}{'; only counts' if take.dry_run else ''}"
    if quota is None:
        return Statement(_rate(limit), note=note)
    left = f"{quota.remaining} left, whole again in {quota.reset} s"
    return Statement(_rate(limit), quota.remaining >= (take.cost if refused else 0), f"{note}; {left}")


def _rate(limit: Limit) -> str:
    return f"limit {limit.name}: {limit.limit} per {limit.period or f'{limit.window} s'}"
