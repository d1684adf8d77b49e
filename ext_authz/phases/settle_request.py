"""What one caller on one route costs: the question to the settlement, prepared once, and the reading of its answer."""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import Any

from msgspec import Raw, Struct

from ext_authz.bounded import BoundedCache
from ext_authz.decision import ANONYMOUS, ID_PLACEHOLDER, Principal, Quota, Reason, Request, timestamp
from ext_authz.errors import Denied
from ext_authz.identity.identity import Identity
from ext_authz.ledger import facts
from ext_authz.ledger.event import NO_FACTS, UsageEvent, encode
from ext_authz.ledger.facts import Facts
from ext_authz.observability.metrics import LIMIT_DRY_RUN
from ext_authz.phases.client_address import client_address
from ext_authz.phases.descriptors import ADDRESS, Caller, Costs, costs_of, plan_of, take_of
from ext_authz.policy.model import Algorithm, Limit, Match, Policy
from ext_authz.revocation import entry
from ext_authz.settlement.model import Outcome, QuotaRequest, SettleRequest, SettleResult

logger = logging.getLogger(__name__)

_PREPARED_BYTES = 32 << 20
_CHARGE_BYTES = 1000
_TAKE_BYTES = 200
_PLACEHOLDER_BYTES = ID_PLACEHOLDER.encode()
_SEEN = "\x7f"
"""Stands for the host in prepared facts."""
_SEEN_BYTES = b'"host":"\x7f"'
"""In JSON. No value can hold this: quotes in it would be escaped."""


class DryRunReports:
    """Logs the first, second, fourth, eighth time and so on, per limit: bounded, whatever the traffic."""

    def __init__(self) -> None:
        self._times: dict[str, int] = {}

    def report(self, limit: str) -> None:
        LIMIT_DRY_RUN.labels(limit).inc()
        times = self._times[limit] = self._times.get(limit, 0) + 1
        if times & (times - 1) == 0:
            logger.info("dry-run limit: would have refused", extra={"limit": limit, "times": times})


class Charge(Struct, frozen=True, eq=False):
    """All that does not change between two calls of one caller to one place. The decision id is put in per check."""

    limits: tuple[Limit, ...]
    question: SettleRequest
    event: tuple[bytes, bytes, bytes]
    """Cut where the decision id goes, and where host and source address do; the last part is empty without facts."""
    costs: Costs | None = None
    """Where the request says what it takes."""
    dry_runs: DryRunReports | None = None
    """Where a limit only counts."""

    @property
    def size(self) -> int:
        """In bytes, about: its event, which names all that is variable, and its takes."""
        return (
            _CHARGE_BYTES
            + sum(map(len, self.event))
            + sum(len(take.key) + _TAKE_BYTES for take in self.question.quota_requests)
        )

    def quota_requests(self, request: Request, now: int) -> tuple[QuotaRequest, ...]:
        """What this request takes."""
        quota_requests = self.question.quota_requests
        return quota_requests if self.costs is None else self.costs.of(quota_requests, request, now)

    def ask(self, decision_id: str, request: Request) -> SettleRequest:
        """The question for this check."""
        question, (before, between, after) = self.question, self.event
        event = before + decision_id.encode() + between
        if after:
            event += _seen(request.host, request.source) + after
        quota_requests = (
            question.quota_requests if self.costs is None else self.quota_requests(request, timestamp(decision_id))
        )
        return SettleRequest(question.revocation, question.issued_at, quota_requests, event, question.failure)

    def settled(self, answer: SettleResult) -> tuple[Quota, ...]:
        """What is left in every limit that the caller is told of.

        Raises:
            Denied: REVOKED, or OVER_LIMIT with the quotas and how long to wait.
        """
        if answer.outcome is Outcome.REVOKED:
            by = answer.revoked_by.label if answer.revoked_by else ""
            raise Denied(Reason.REVOKED, "revoked", "the token is not valid any more: get a new one", revoked_by=by)
        quotas = tuple(map(_quota, self.limits, answer.remaining, answer.reset_ms))
        if self.dry_runs:
            quotas = self._told(quotas, answer, self.dry_runs)
        if answer.outcome is Outcome.LIMITED:
            limit, wait = self.limits[answer.limited_by], _seconds(answer.retry_after_ms)
            raise Denied(Reason.OVER_LIMIT, "over_limit", _refused(limit, wait), quotas=quotas, retry_after=wait)
        return quotas

    def _told(self, quotas: tuple[Quota, ...], answer: SettleResult, dry_runs: DryRunReports) -> tuple[Quota, ...]:
        """Without the limits that only count: they are the operator's."""
        for index in answer.dry_run_over:
            dry_runs.report(self.limits[index].name)
        each = zip(quotas, self.question.quota_requests, strict=False)  # no quotas: nobody could count
        return tuple(quota for quota, take in each if not take.dry_run)


class Charges:
    """Prepares charges and keeps them, bounded; keyed by the verified identity and the matched route as objects."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._keeps_facts = policy.explain_keep > 0
        self._by_address = frozenset(
            route for route in policy.routes if any(ADDRESS in rule.key for rule in route.limits)
        )
        self._dry_runs = DryRunReports()
        self._prepared: BoundedCache[tuple[Identity, Match, str, str, str, str], Charge] = BoundedCache(_PREPARED_BYTES)

    def of(
        self, identity: Identity, match: Match, model: str, version: str, request: Request, variant: str = ""
    ) -> Charge:
        """The charge of this caller for this call; a `Match` stands for one method and path."""
        by_address = self._by_address and match.route in self._by_address
        address = client_address(request, self._policy.trusted_hops) if by_address else ""
        key = (identity, match, model, version, address, variant)
        charge = self._prepared.get(key)
        if charge is None:
            caller = Caller(identity, match, model, version, request.path, address)
            charge = self._prepare(caller, request, variant)
            self._prepared.put(key, charge, charge.size)
        return charge

    def event(
        self,
        decision_id: str,
        request: Request | None,
        principal: Principal = ANONYMOUS,
        *,
        known: Facts | None = None,
        route: str = "",
        model: str = "",
        version: str = "",
        reason: Reason = Reason.ALLOWED,
        code: str = "",
        degraded: str = "",
    ) -> bytes:
        """The ledger's line about one decision."""
        return encode(
            UsageEvent(
                decision_id=decision_id,
                reason=reason.value,
                code=code,
                issuer=principal.issuer,
                subject=principal.subject,
                client=principal.client,
                token_id=principal.token_id,
                route=route,
                model=model,
                model_version=version,
                method=request.method[:16] if request else "",
                path=request.path[:512] if request else "",
                policy=self._policy.hash,
                degraded=degraded,
                facts=Raw(facts.encode(known)) if known and self._keeps_facts else NO_FACTS,
            )
        )

    def _prepare(self, caller: Caller, request: Request, variant: str) -> Charge:
        identity, match, plans = caller.identity, caller.match, self._policy.plans
        rules, plan = match.route.limits, plan_of(caller.identity, plans)
        limits = tuple(rule.of(plan) for rule in rules)
        quota_requests = tuple(take_of(rule, limit, caller) for rule, limit in zip(rules, limits, strict=True))
        known = Facts(
            _SEEN,
            **_about(identity, match),
            plan=plan if plans else "",
            variant=variant,
            limits=facts.counters(take.key for take in quota_requests),
        )
        event = self.event(
            ID_PLACEHOLDER,
            request,
            identity.principal,
            known=known,
            route=match.route.name,
            model=caller.model,
            version=caller.version,
            degraded=identity.degraded,
        )
        question = SettleRequest(entry.ids(identity), identity.issued_at, quota_requests, b"", match.route.failure)
        dry_runs = self._dry_runs if any(take.dry_run for take in quota_requests) else None
        return Charge(limits, question, _cut(event), costs_of(rules, caller), dry_runs)


def known_of(request: Request, identity: Identity | None, match: Match | None) -> Facts:
    """What is known of a call that never came to the settlement."""
    return Facts(facts.cut(request.host), request.source, **_about(identity, match))


def _about(identity: Identity | None, match: Match | None) -> dict[str, Any]:
    caller = facts.about_caller(identity) if identity else {}
    return {**caller, "operation": match.operation or "", "grpc": match.grpc} if match else caller


def _cut(event: bytes) -> tuple[bytes, bytes, bytes]:
    before, _, rest = event.partition(_PLACEHOLDER_BYTES)
    between, _, after = rest.partition(_SEEN_BYTES)
    return before, between, after


@lru_cache(maxsize=4096)
def _seen(host: str, source: str) -> bytes:
    return b'"host":%s,"source":%s' % (facts.encode(facts.cut(host)), facts.encode(source))


def _refused(limit: Limit, wait: int) -> str:
    if wait:
        what = f"{limit.limit} per {limit.period or f'{limit.window} s'}"
        return f"the limit {limit.name!r} of {what} is used up: retry in {wait} s"
    most = max(1, limit.burst) if limit.algorithm is Algorithm.GCRA else limit.limit
    return (
        f"the limit {limit.name!r} takes {most} at most, and this request costs more: it never fits, send less at once"
    )


def _quota(limit: Limit, remaining: int, reset_ms: int) -> Quota:
    return Quota(limit.name, limit.limit, limit.window, remaining, _seconds(reset_ms))


def _seconds(milliseconds: int) -> int:
    return -(-milliseconds // 1000)
