"""What a check sends to the settlement, prepared once per caller and call, and how its result is read.

The ledger's event is written here, from the check context: prepared with the settle request, or for a refusal alone.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import Any

from msgspec import Raw, Struct
from msgspec.structs import replace

from ext_authz.bounded import BoundedCache
from ext_authz.decision import ID_PLACEHOLDER, Quota, Reason, Request
from ext_authz.errors import Denied
from ext_authz.identity.identity import Identity
from ext_authz.ledger.event import NO_RECORD, DecisionRecord, Event, about_caller, cut, encode
from ext_authz.observability.metrics import LIMIT_DRY_RUN
from ext_authz.phases.client_address import client_address
from ext_authz.phases.context import CheckContext, most
from ext_authz.phases.descriptors import ADDRESS, Caller, Costs, costs_of, plan_of, quota_request
from ext_authz.policy.model import BUDGET, Limit, Match, Policy
from ext_authz.revocation import entry
from ext_authz.settlement.model import Outcome, SettleRequest, SettleResult

logger = logging.getLogger(__name__)

_CACHE_BYTES = 32 << 20
_PREPARED_BYTES = 1000
_QUOTA_REQUEST_BYTES = 200
_ID_PLACEHOLDER_BYTES = ID_PLACEHOLDER.encode()
_HOST_PLACEHOLDER = "\x7f"
"""Stands for the host in a prepared record."""
_HOST_PLACEHOLDER_BYTES = b'"host":"\x7f"'
"""In JSON. No value can hold this: quotes in it would be escaped."""


_OVER_BUDGET = (
    "the budget of this client's billing account is used up: ask who pays for it, or wait for the next period"
)


class DryRunReports:
    """Logs the first, second, fourth, eighth time and so on, per limit: bounded, whatever the traffic."""

    in_force = True
    """In metrics and log; False for a candidate policy and in simulations."""

    def __init__(self) -> None:
        self._times: dict[str, int] = {}

    def report(self, limit: str) -> None:
        if not self.in_force:
            return
        LIMIT_DRY_RUN.labels(limit).inc()
        times = self._times[limit] = self._times.get(limit, 0) + 1
        if times & (times - 1) == 0:
            logger.info("dry-run limit: would have refused", extra={"limit": limit, "times": times})


class PreparedRequest(Struct, frozen=True, eq=False):
    """All that does not change between two calls of one caller to one place. The decision id is put in per check."""

    plan: str
    limits: tuple[Limit, ...]
    settle_request: SettleRequest
    event: tuple[bytes, bytes, bytes]
    """Cut where the decision id goes, and where host and addresses do; the last part is empty without a record."""
    hops: int = 0
    """The policy's `trusted_hops`."""
    costs: Costs | None = None
    """Where the request says what it costs."""
    dry_runs: DryRunReports | None = None
    """Where a limit is a dry run."""

    @property
    def size(self) -> int:
        """In bytes, about: its event, which names all that is variable, and its quota requests."""
        keys = (quota_request.key for quota_request in self.settle_request.quota_requests)
        return _PREPARED_BYTES + sum(map(len, self.event)) + sum(len(key) + _QUOTA_REQUEST_BYTES for key in keys)

    def complete(self, context: CheckContext, request: Request) -> SettleRequest:
        """The settle request of this check."""
        whole, (before, between, after) = self.settle_request, self.event
        event = before + context.decision_id.encode() + between
        if after:
            address = client_address(request, self.hops) if self.hops else ""
            event += _place(request.host, request.source, address) + after
        quota_requests = whole.quota_requests
        if self.costs is not None:
            quota_requests = self.costs.of(quota_requests, request, context.now)
        context.plan, context.limits = self.plan, self.limits
        context.settle_request = SettleRequest(whole.revocation, whole.issued_at, quota_requests, event, whole.failure)
        return context.settle_request

    def quotas(self, result: SettleResult) -> tuple[Quota, ...]:
        """What is left in every limit that the caller may know of.

        Raises:
            Denied: REVOKED, or OVER_LIMIT with the quotas and how long to wait.
        """
        if result.outcome is Outcome.REVOKED:
            raise revoked(result)
        quotas = tuple(map(_quota, self.limits, result.remaining, result.reset_ms))
        if self.dry_runs:
            quotas = self._without_dry_runs(quotas, result, self.dry_runs)
        if quotas and quotas[-1].name == BUDGET:  # a budget is no quota of requests
            quotas = quotas[:-1]
        if result.outcome is Outcome.LIMITED:
            limit, wait = self.limits[result.limited_by], seconds(result.retry_after_ms)
            if limit.name == BUDGET:
                raise Denied(Reason.OVER_LIMIT, "over_budget", _OVER_BUDGET, quotas=quotas, retry_after=wait)
            raise Denied(Reason.OVER_LIMIT, "over_limit", _refused(limit, wait), quotas=quotas, retry_after=wait)
        return quotas

    def _without_dry_runs(
        self, quotas: tuple[Quota, ...], result: SettleResult, dry_runs: DryRunReports
    ) -> tuple[Quota, ...]:
        """Limits that only count are for operators."""
        for index in result.dry_run_over:
            dry_runs.report(self.limits[index].name)
        each = zip(quotas, self.settle_request.quota_requests, strict=False)  # no quotas: nothing could be counted
        return tuple(quota for quota, quota_request in each if not quota_request.dry_run)


class SettleRequests:
    """Prepares settle requests and keeps them, bounded; keyed by the verified identity and the match as objects."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._by_address = frozenset(
            route for route in policy.routes if any(ADDRESS in rule.key for rule in route.limits)
        )
        self.dry_runs = DryRunReports()
        self._prepared: BoundedCache[tuple[Identity, Match, str, str, str, str], PreparedRequest] = BoundedCache(
            _CACHE_BYTES
        )

    def prepared(self, identity: Identity, match: Match, context: CheckContext, request: Request) -> PreparedRequest:
        """For this caller and call; a `Match` stands for one method and path."""
        by_address = self._by_address and match.route in self._by_address
        address = client_address(request, self._policy.trusted_hops) if by_address else ""
        key = (identity, match, context.model, context.version, address, context.variant)
        prepared = self._prepared.get(key)
        if prepared is None:
            caller = Caller(identity, match, context.model, context.version, match.path or request.path, address)
            prepared = self._prepare(caller, context, request)
            self._prepared.put(key, prepared, prepared.size)
        return prepared

    def event(
        self, context: CheckContext, request: Request | None, reason: Reason = Reason.ALLOWED, code: str = ""
    ) -> bytes:
        """The ledger's event about one decision."""
        known = self._record(context, request) if request else None
        who, result = context.identity or context.refused, context.settle_result
        return encode(
            Event(
                decision_id=context.decision_id,
                reason=reason.value,
                code=code,
                issuer=context.principal.issuer,
                subject=context.principal.subject,
                client=context.principal.client,
                token_id=context.principal.token_id,
                route=context.route,
                model=context.model,
                model_version=context.version,
                method=request.method[:16] if request else "",
                path=request.path[:512] if request else "",
                policy=self._policy.hash,
                degraded=context.degraded,
                revoked_by=result.revoked_by.label if result and result.revoked_by else "",
                username=who.username if who and self._policy.explain_usernames else "",
                record=Raw(encode(known)) if known else NO_RECORD,
            )
        )

    def _prepare(self, caller: Caller, context: CheckContext, request: Request) -> PreparedRequest:
        identity, route, plans = caller.identity, caller.match.route, self._policy.plans
        plan = plan_of(identity, plans)
        limits = tuple(rule.of(plan) for rule in route.limits)
        quota_requests = tuple(quota_request(*each, caller) for each in zip(route.limits, limits, strict=True))
        whole = SettleRequest(entry.ids(identity), identity.issued_at, quota_requests, b"", route.failure)
        any_call = replace(
            context, decision_id=ID_PLACEHOLDER, plan=plan if plans else "", limits=limits, settle_request=whole
        )
        event = self.event(any_call, replace(request, host=_HOST_PLACEHOLDER, source="", headers={}))
        dry_runs = self.dry_runs if any(each.dry_run for each in quota_requests) else None
        costs, hops = costs_of(route.limits, caller), self._policy.trusted_hops
        return PreparedRequest(any_call.plan, limits, whole, _cut(event), hops, costs, dry_runs)

    def _record(self, context: CheckContext, request: Request) -> DecisionRecord | None:
        """What is known of a call, as far as the check came, if the policy keeps it."""
        if not self._policy.explain_keep:
            return None
        who = context.identity or context.refused
        found: dict[str, Any] = about_caller(who) if who else {}
        if context.match:
            found |= {"operation": context.match.operation or "", "grpc": context.match.grpc}
        if context.settle_request:
            keys = (quota_request.key for quota_request in context.settle_request.quota_requests)
            found |= {"plan": context.plan, "variant": context.variant, "limits": tuple(map(cut, keys))}
        address = client_address(request, self._policy.trusted_hops) if self._policy.trusted_hops else ""
        return DecisionRecord(cut(request.host), request.source, "" if address == request.source else address, **found)


def revoked(result: SettleResult) -> Denied:
    """Why, of a result that says so."""
    by = result.revoked_by.label if result.revoked_by else ""
    return Denied(Reason.REVOKED, "revoked", "the token is not valid any more: get a new one", revoked_by=by)


def _cut(event: bytes) -> tuple[bytes, bytes, bytes]:
    before, _, rest = event.partition(_ID_PLACEHOLDER_BYTES)
    between, _, after = rest.partition(_HOST_PLACEHOLDER_BYTES)
    return before, between, after


@lru_cache(maxsize=4096)
def _place(host: str, source: str, address: str) -> bytes:
    place = b'"host":%s,"source":%s' % (encode(cut(host)), encode(source))
    return place + b',"address":%s' % encode(address) if address not in ("", source) else place


def _refused(limit: Limit, wait: int) -> str:
    if wait:
        what = f"{limit.limit} per {limit.period or f'{limit.window} s'}"
        return f"the limit {limit.name!r} of {what} is used up: retry in {wait} s"
    what = f"takes {most(limit)} at most, and this request costs more"
    return f"the limit {limit.name!r} {what}: it never fits, send less at once"


def _quota(limit: Limit, remaining: int, reset_ms: int) -> Quota:
    return Quota(limit.name, limit.limit, limit.window, remaining, seconds(reset_ms))


def seconds(milliseconds: int) -> int:
    return -(-milliseconds // 1000)
