"""What the limits of a route count by for one caller: the plan that applies, the descriptors, what a request costs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from ext_authz.decision import Request
from ext_authz.identity.identity import Identity
from ext_authz.identity.own_tokens import CLIENT
from ext_authz.phases.variables import variables
from ext_authz.policy.cel.expressions import Amount
from ext_authz.policy.model import DEFAULT_PLAN, Cost, Limit, LimitKey, LimitRule, Match, Plan
from ext_authz.settlement.model import QuotaRequest, counter_key

CLAIM = "claim:"
ADDRESS = "ip"
_MEMBER_SEPARATOR = "\x1e"
_WHOLE_NUMBER = re.compile(r"[0-9]{1,18}", re.ASCII)


class Caller(Struct, frozen=True):
    """Whom and what a limit can count by, in one call."""

    identity: Identity
    match: Match
    model: str
    version: str
    path: str
    address: str
    """Empty where no limit of the route counts by it."""


def plan_of(identity: Identity, plans: Sequence[Plan]) -> str:
    """The first plan that applies; of an API token, to its owner: one with less gets no larger quota."""
    who = identity.owner or identity
    return next((plan.name for plan in plans if _applies(plan, who)), DEFAULT_PLAN)


def quota_request(rule: LimitRule, limit: Limit, caller: Caller) -> QuotaRequest:
    """Of one request; where the request says what it costs (`Costs`), with the most."""
    key = counter_key(limit.name, (_value(part, caller) for part in limit.key))
    cost = rule.cost.most if _varies(rule.cost) else rule.cost.amount
    window_ms = limit.window * 1000
    if rule.billing_days is not None:
        window_ms += _billing_day(rule.billing_days, caller.identity) - 1
    return QuotaRequest(key, limit.algorithm, limit.limit, window_ms, limit.burst, cost, rule.dry_run)


class Costs(Struct, frozen=True, eq=False):
    """What a request costs in limits that let a header or an expression say it."""

    costs: tuple[Cost, ...]
    """In the order of the quota requests."""
    caller: Caller

    def of(self, quota_requests: tuple[QuotaRequest, ...], request: Request, now: int) -> tuple[QuotaRequest, ...]:
        """With the costs of this request, made at `now` (seconds since the epoch)."""
        return tuple(
            replace(prepared, cost=self._amount(cost, request, now)) if _varies(cost) else prepared
            for prepared, cost in zip(quota_requests, self.costs, strict=True)
        )

    def _amount(self, cost: Cost, request: Request, now: int) -> int:
        """Without an answer the most: a caller who leaves it out must not be better off."""
        if cost.expression is None:
            found = _number(request.headers.get(cost.header, ""))
        else:
            found = self._evaluated(cost.expression, request, now)
        return cost.most if found is None else min(max(found, 1), cost.most)

    def _evaluated(self, amount: Amount, request: Request, now: int) -> int | None:
        who = self.caller
        identity = who.identity.owner or who.identity  # as of plans
        return amount.of(variables(identity, who.match, who.model, who.version, request, now, amount.names))


def costs_of(rules: Sequence[LimitRule], caller: Caller) -> Costs | None:
    """None where no cost depends on the request."""
    return Costs(tuple(rule.cost for rule in rules), caller) if any(_varies(rule.cost) for rule in rules) else None


def _applies(plan: Plan, identity: Identity) -> bool:
    if not plan.roles.isdisjoint(identity.roles):
        return True
    return bool(plan.claim) and not plan.values.isdisjoint(identity.texts(plan.claim))


def _value(part: LimitKey, caller: Caller) -> str:
    """What only an issuer can vouch for is counted apart for each issuer."""
    identity = caller.identity
    if part.startswith(CLAIM):
        return f"{identity.issuer_name}:{_MEMBER_SEPARATOR.join(sorted(identity.texts(part.removeprefix(CLAIM))))}"
    values = {
        "user": f"{identity.issuer_name}:{identity.principal.subject}",
        "client": f"{identity.issuer_name}:{_client(identity)}",
        # An API token keeps its quota when it is renewed.
        "token": f"{identity.issuer_name}:{identity.grant or identity.principal.token_id}",
        "path": caller.path,
        "model": caller.model,
        ADDRESS: caller.address,
        "route": caller.match.route.name,
    }
    return values[part]


def _billing_day(days: Mapping[str, Mapping[str, int]], identity: Identity) -> int:
    """Calls with API tokens are on the bill of their owner."""
    who = identity.principal
    return days.get(identity.issuer_name, {}).get(who.subject if identity.grant else who.client, 1)


def _client(identity: Identity) -> str:
    """All API tokens of an owner are one: owners choose their names, and a new name must be no new quota, nor the name
    that somebody else chose a shared one."""
    who = identity.principal
    return f"{CLIENT}{who.subject}" if identity.grant else who.client


def _varies(cost: Cost) -> bool:
    return bool(cost.header) or cost.expression is not None


def _number(text: str) -> int | None:
    return int(text) if _WHOLE_NUMBER.fullmatch(text) else None
