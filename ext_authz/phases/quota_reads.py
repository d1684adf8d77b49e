"""`GET /.tollgate/quota`: what is left in each limit that applies to the caller, from the counters of the checks.

Reads at a cost of 0, so nothing is taken. A counter that callers share is shown only through a call that this caller
may make: its RateLimit headers would show the same. Dry-run limits are for operators.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from urllib.parse import parse_qsl

from msgspec import Struct
from msgspec.structs import replace

from ext_authz.decision import Reason, Request
from ext_authz.errors import Denied, Unavailable
from ext_authz.identity.identity import Identity
from ext_authz.phases.access import may, permitted
from ext_authz.phases.client_address import client_address
from ext_authz.phases.context import CheckContext
from ext_authz.phases.descriptors import Caller, plan_of, quota_request
from ext_authz.phases.flood_guard import Rates
from ext_authz.phases.permission import ensure_permitted
from ext_authz.phases.settle_request import revoked, seconds
from ext_authz.policy.kserve import ModelScope, Right, classify
from ext_authz.policy.model import BUDGET, Algorithm, Limit, Match, Policy, Route
from ext_authz.policy.names import ensure_model, ensure_version
from ext_authz.policy.routes import OF_MODELS, OF_V1, OPTIONS, RouteTable
from ext_authz.revocation import entry
from ext_authz.settlement.model import Outcome, QuotaRequest, SettleRequest, SettleResult

MAX_MODELS = 8
"""Of a caller who may call more, the limits that count by model or path are only named."""
PER_MINUTE, AT_ONCE = 60, 20
"""Reads of one user in one worker."""
_OF_CALL = ("model", "path")
"""What a limit counts by that only a call has."""
_PERSONAL = frozenset({"user", "token"})
_PARAMETERS = frozenset({"model", "version", "path", "method"})


class LimitDocument(Struct, frozen=True, omit_defaults=True):
    """One counter."""

    name: str
    limit: int
    window: int
    """Seconds; of a calendar period its longest."""
    by: Mapping[str, str]
    """What it counts by, with the values of this caller and call."""
    cost: int
    """What one request takes; where the request says it, the most."""
    period: str = ""
    """Calendar only."""
    burst: int = 0
    """GCRA only: how many may come at once, of which `used` and `remaining` are."""
    used: int | None = None
    """0 as long as a boost is not used up, which `remaining` includes."""
    remaining: int | None = None
    reset: int | None = None
    """Seconds until all is restored."""
    needs: tuple[str, ...] = ()
    """Parameters of the query without which it cannot be read."""


class QuotaDocument(Struct, frozen=True, omit_defaults=True):
    """The answer."""

    limits: tuple[LimitDocument, ...]
    plan: str = ""


class _Counter(Struct, frozen=True):
    limit: Limit
    quota_request: QuotaRequest
    needs: tuple[str, ...] = ()

    def document(self, remaining: int, reset_ms: int) -> LimitDocument:
        limit, quota_request = self.limit, self.quota_request
        by = quota_request.descriptor(limit.key)
        burst = max(1, limit.burst) if limit.algorithm is Algorithm.GCRA else 0
        found = LimitDocument(limit.name, limit.limit, limit.window, by, quota_request.cost, limit.period, burst)
        if self.needs:
            by = {part: value for part, value in by.items() if part not in _OF_CALL}
            return replace(found, by=by, needs=self.needs)
        return replace(
            found, used=max(0, (burst or limit.limit) - remaining), remaining=remaining, reset=seconds(reset_ms)
        )


class QuotaRead(Struct, frozen=True):
    """One read: what to settle, and how its result becomes the answer."""

    settle_request: SettleRequest
    counters: tuple[_Counter, ...]
    """Those of the quota requests first, in their order."""
    plan: str

    def document(self, result: SettleResult) -> QuotaDocument:
        """
        Raises:
            Denied: REVOKED.
            Unavailable: nothing is counted while Redis is away, since the failure policy allows everything.
        """
        if result.outcome is Outcome.REVOKED:
            raise revoked(result)
        if len(result.remaining) < len(self.settle_request.quota_requests):
            raise Unavailable("redis", "nothing is counted without it")
        left = [*zip(result.remaining, result.reset_ms, strict=True)]
        left += [(0, 0)] * (len(self.counters) - len(left))
        each = zip(self.counters, left, strict=True)
        return QuotaDocument(tuple(counter.document(*found) for counter, found in each), self.plan)


class QuotaReads:
    """Prepares the reads of one policy."""

    def __init__(self, policy: Policy, routes: RouteTable) -> None:
        self._policy = policy
        self._routes = routes
        self._limited = list({_kind(route): route for route in policy.routes if route.limits}.values())
        self._open = frozenset(filter(_is_open, self._limited))
        self._rates = Rates(PER_MINUTE, 60, AT_ONCE)

    def prepared(self, identity: Identity, request: Request, context: CheckContext) -> QuotaRead:
        """
        Raises:
            Denied: OVER_LIMIT for a caller who reads too often; BAD_REQUEST for a query that is not understood; as a
                check of the call that the query describes.
        """
        self.ensure_rate(identity, context)
        reader = _Reader(self._policy, self._routes, identity, request, context)
        asked = _asked(request.query)
        counters = reader.of_query(asked) if asked else reader.of_caller(self._limited, self._open)
        readable = [counter for counter in counters.values() if not counter.needs]
        quota_requests = tuple(replace(counter.quota_request, cost=0) for counter in readable)
        failure = self._policy.failure
        settle_request = SettleRequest(entry.ids(identity), identity.issued_at, quota_requests, b"", failure)
        named = (counter for counter in counters.values() if counter.needs)
        return QuotaRead(settle_request, (*readable, *named), reader.plan if self._policy.plans else "")

    def ensure_rate(self, identity: Identity, context: CheckContext) -> None:
        """Of everything that a caller reads here.

        Raises:
            Denied: OVER_LIMIT.
        """
        key, now = f"{identity.issuer_name}:{identity.principal.subject}", context.at_ms * 1000
        if wait := self._rates.wait(key, now):
            detail = f"quotas and models are read too often: retry in {wait} s"
            raise Denied(Reason.OVER_LIMIT, "quota_reads", detail, retry_after=wait)
        self._rates.count(key, now)


class _Reader:
    """Finds the counters of one caller, by their keys."""

    def __init__(
        self, policy: Policy, routes: RouteTable, identity: Identity, request: Request, context: CheckContext
    ) -> None:
        self.plan = plan_of(identity, policy.plans)
        self._policy = policy
        self._routes = routes
        self._identity = identity
        self._request = request
        self._context = context
        self._address = client_address(request, policy.trusted_hops)

    def of_caller(self, limited: Iterable[Route], is_open: frozenset[Route]) -> dict[str, _Counter]:
        """Of every route that the caller has the permission for; where a call is needed, of inference."""
        named: dict[str, _Counter] = {}
        for route in limited:
            if permitted(self._identity, route.permission):
                counters = self._counters(Match(route), "", "", "", shared=route in is_open)
                named |= {key: found for key, found in counters.items() if key not in named or not found.needs}
        if any(counter.needs for counter in named.values()):
            of_calls = self._of_models()
            known = {counter.limit.name for counter in of_calls.values()}
            named = {key: found for key, found in named.items() if not (found.needs and found.limit.name in known)}
            named |= of_calls
        return named

    def of_query(self, asked: Mapping[str, str]) -> dict[str, _Counter]:
        """Of the call that the query describes; of a model alone, of inference with it."""
        model, version = asked.get("model", ""), asked.get("version", "")
        if "path" not in asked or model:
            ensure_model(model)
        ensure_version(version)
        if "path" in asked:
            return self._of_call(asked.get("method", "POST"), asked["path"], model, version)
        found, refusals = self._of_inference(model, version)
        if len(refusals) == len(_inference(model, version)):
            raise next((denied for denied in refusals if denied.reason is not Reason.NO_ROUTE), refusals[0])
        return found

    def _of_models(self) -> dict[str, _Counter]:
        """Of inference with each model that the policy names, and that the caller may call."""
        names = (rule.name for rule in self._policy.models.all if "*" not in rule.name)
        callable_ones = (name for name in names if may(self._identity, Right.CALL, name, "", self._policy))
        models = list(islice(callable_ones, MAX_MODELS + 1))
        found: dict[str, _Counter] = {}
        for model in models[:MAX_MODELS]:
            found |= self._of_inference(model, "")[0]
        if len(models) <= MAX_MODELS:
            return found
        return {key: counter for key, counter in found.items() if not set(_OF_CALL) & set(counter.limit.key)}

    def _of_inference(self, model: str, version: str) -> tuple[dict[str, _Counter], list[Denied]]:
        found: dict[str, _Counter] = {}
        refusals: list[Denied] = []
        for path in _inference(model, version):
            try:
                found |= self._of_call("POST", path, model, version)
            except Denied as denied:
                refusals.append(denied)
        return found, refusals

    def _of_call(self, method: str, path: str, model: str, version: str) -> dict[str, _Counter]:
        """Goes through phases 1 and 3 as the call itself would."""
        try:
            match = self._routes.match(method, path, self._request.host, self._request.headers)
        except Denied as denied:
            if denied.code == OPTIONS:  # answered without a limit
                return {}
            raise
        if match.route.public:
            return {}
        media_type = "application/grpc" if match.grpc else "application/json"
        named = {"models": (model,) if model else (), "versions": (version,) if version else ()}
        call = replace(self._request, method=method, path=path, query="", content_type=media_type, **named)
        context = CheckContext(at_ms=self._context.at_ms, match=match)
        if not match.model_from_message:
            context.model, context.version = match.model, match.version
        elif model:
            context.model, context.version = model, version
        else:
            detail = "this call names its model in its message: add &model=NAME"
            raise Denied(Reason.BAD_REQUEST, "model_missing", detail)
        ensure_permitted(self._identity, match, context, call, self._policy)
        return self._counters(match, match.path or path, context.model, context.version, shared=True)

    def _counters(self, match: Match, path: str, model: str, version: str, *, shared: bool) -> dict[str, _Counter]:
        """`shared`: whether those that other callers count in may be read. Without a path there is no call."""
        caller = Caller(self._identity, match, model, version, path, self._address)
        found: dict[str, _Counter] = {}
        for rule in match.route.limits:
            if not rule.dry_run and rule.name != BUDGET:
                limit = rule.of(self.plan)
                needs = () if path else _needs(limit.key, shared=shared)
                prepared = quota_request(rule, limit, caller)
                found[prepared.key] = _Counter(limit, prepared, needs)
        return found


def _needs(key: Sequence[str], *, shared: bool) -> tuple[str, ...]:
    needs = tuple(part for part in _OF_CALL if part in key)
    return needs if needs or shared or not _PERSONAL.isdisjoint(key) else ("path",)


def _kind(route: Route) -> object:
    """Routes of one kind have the same counters, as long as no call is named: one of thousands is looked at."""
    by_route = any("route" in rule.key for rule in route.limits)
    return route.permission, route.limits, _is_open(route), route.name if by_route else ""


def _is_open(route: Route) -> bool:
    """Whether whoever has its permission may use it: no condition, and no model that could be forbidden."""
    if route.when or route.grpc or route.operation or "{model}" in route.path or route.path.startswith(OF_V1):
        return False
    if "{" in route.path and route.path.startswith(OF_MODELS):
        return False  # a placeholder of any name can stand for a model
    operations = [classify(method, route.path) for method in route.methods]
    return all(operation is None or operation.scope is ModelScope.NONE for operation in operations)


def _inference(model: str, version: str) -> Sequence[str]:
    of_version = f"/versions/{version}" if version else ""
    of_v1 = () if version else (f"/v1/models/{model}:predict",)
    return (f"/v2/models/{model}{of_version}/infer", "/inference.GRPCInferenceService/ModelInfer", *of_v1)


def _asked(query: str) -> Mapping[str, str]:
    """The parameters of the query.

    Raises:
        Denied: BAD_REQUEST, `query_not_understood`.
    """
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True) if query else []
    except ValueError:
        pairs = [("", "")]
    asked = dict(pairs)
    method_alone = "method" in asked and "path" not in asked
    if len(asked) < len(pairs) or not asked.keys() <= _PARAMETERS or method_alone:
        detail = "write no query, ?model=NAME[&version=NUMBER], or ?path=PATH[&method=METHOD][&model=NAME]"
        raise Denied(Reason.BAD_REQUEST, "query_not_understood", detail)
    return asked
