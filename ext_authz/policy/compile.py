"""Compiles a document into a policy, and reports what is wrong between its parts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain

from msgspec.structs import replace

from ext_authz.policy import compile_issuers, compile_models, compile_routes
from ext_authz.policy.cel.expressions import Amount
from ext_authz.policy.compile_issuers import STRICT_TYPE
from ext_authz.policy.compile_models import denies, permission
from ext_authz.policy.diagnostics import Diagnostics
from ext_authz.policy.documents import PolicyDocument
from ext_authz.policy.documents.base import CALENDAR_PERIODS, PERIODS, rate, seconds
from ext_authz.policy.documents.issuers import IssuerDocument
from ext_authz.policy.documents.limits import CLAIM, CostDocument, FloodDocument, LimitDocument, PlanDocument
from ext_authz.policy.documents.routes import RouteDocument
from ext_authz.policy.documents.tokens import TokensDocument
from ext_authz.policy.documents.web import CorsDocument, ResourceDocument
from ext_authz.policy.faults import Fault, did_you_mean, shown
from ext_authz.policy.issuers import OWN_ISSUER, Issuer, OwnTokens
from ext_authz.policy.model import (
    BUDGET,
    DEFAULT_PLAN,
    OVER_BUDGET,
    Algorithm,
    Cors,
    Cost,
    Failure,
    Flood,
    Limit,
    LimitRule,
    Plan,
    Policy,
    Resource,
    Responses,
    Route,
)
from ext_authz.policy.own_routes import CONSOLE_ROUTE
from ext_authz.policy.rights import NOBODY, Permission, Trait, named
from ext_authz.policy.source import Source

_NAMES = {Trait.ROLE: "roles", Trait.SCOPE: "scopes", Trait.GROUP: "groups"}


def compiled_policy(document: PolicyDocument, source: Source) -> tuple[Policy, list[Fault]]:
    """The policy, and its faults; it may be used only where there are none."""
    diagnostics = Diagnostics(source)
    _ensure_consistent(document, diagnostics)
    policy = _without_issuers(document, source, diagnostics)
    decisive = _decisive(policy)
    policy = replace(policy, issuers=tuple(compile_issuers.issuer(each, decisive) for each in document.issuers))
    policy = _with_dpop(_with_resource(policy, document.resource))
    return replace(policy, tokens=_own_tokens(document.tokens, policy, diagnostics)), diagnostics.faults


def _ensure_consistent(document: PolicyDocument, diagnostics: Diagnostics) -> None:
    _ensure_distinct(document.issuers, document.routes, diagnostics)
    compile_issuers.ensure_one_is_asked(document.issuers, diagnostics)
    if document.cors:
        compile_routes.ensure_apart(document.routes, diagnostics)
    if document.tokens:
        _ensure_not_the_consoles(document.routes, diagnostics)


def _without_issuers(document: PolicyDocument, source: Source, diagnostics: Diagnostics) -> Policy:
    """What is read of their tokens follows from the rest."""
    models = compile_models.model_rules(document.models, diagnostics)
    limits = _limits(document, diagnostics)
    failure = compile_routes.failure(document.failure, Failure())
    of_all = Route("", failure=failure, max_duration=seconds(document.max_duration))
    return Policy(
        hash=source.digest,
        issuers=(),
        routes=_with_budget(document, compile_routes.routes(document.routes, limits, of_all, diagnostics)),
        models=models,
        realm=document.realm,
        plans=_plans(document.plans, diagnostics),
        limits=limits,
        flood=_flood(document.flood),
        trusted_hops=document.client_address.trusted_hops,
        experiments=compile_models.experiments(document.experiments, models, diagnostics),
        failure=failure,
        responses=Responses(**dict(document.responses)),
        cors=_cors(document.cors),
        explain_keep=seconds(document.explain.keep),
        explain_usernames=document.explain.usernames,
    )


def _with_budget(document: PolicyDocument, routes: tuple[Route, ...]) -> tuple[Route, ...]:
    """Whoever is known at all can be refused for a budget."""
    if document.over_budget == "allow":
        return routes
    return tuple(route if route.public else replace(route, limits=(*route.limits, OVER_BUDGET)) for route in routes)


def _with_dpop(policy: Policy) -> Policy:
    """Callers are told that proofs are understood, and pages may send them and read nonces."""
    algorithms = frozenset().union(*(issuer.proofs.algorithms for issuer in policy.issuers if issuer.cnf == "verify"))
    if not algorithms:
        return policy
    cors = policy.cors and replace(
        policy.cors,
        headers=tuple(sorted({*policy.cors.headers, "dpop"})),
        exposed_headers=tuple(sorted({*policy.cors.exposed_headers, "dpop-nonce"})),
    )
    return replace(policy, cors=cors, responses=replace(policy.responses, dpop=tuple(sorted(algorithms))))


def _with_resource(policy: Policy, document: ResourceDocument | None) -> Policy:
    if document is None:
        return policy
    scopes = sorted({scope for part in _permissions(policy) for scope in named(part, Trait.SCOPE)})
    resource = Resource(document.url, document.name or "", document.documentation or "", tuple(scopes))
    responses = replace(policy.responses, resource_metadata=resource.metadata_url)
    return replace(policy, resource=resource, responses=responses)


def _ensure_not_the_consoles(routes: Sequence[RouteDocument], diagnostics: Diagnostics) -> None:
    """A name stands for one route in the ledger."""
    for index, route in enumerate(routes):
        if route.name == CONSOLE_ROUTE:
            what = f"{CONSOLE_ROUTE} is the route to Tollgate's own console, which a policy with tokens has"
            diagnostics.report(("routes", index, "name"), "reserved_name", what, "choose another name")


def _own_tokens(document: TokensDocument | None, policy: Policy, diagnostics: Diagnostics) -> OwnTokens | None:
    if document is None:
        return None
    where = document.issuer or (f"{policy.resource.url}/tollgate" if policy.resource else "")
    if not where and diagnostics.source.complete:
        diagnostics.report_key(
            ("tokens",), "issuer_missing", "these tokens have no issuer", "set resource.url, or issuer"
        )
    if any(issuer.name == OWN_ISSUER or where == issuer.issuer for issuer in policy.issuers):
        what = f"the name {OWN_ISSUER} and the address of the console belong to Tollgate's own tokens"
        diagnostics.report_key(("issuers",), "reserved_name", what, "choose another name or address for that issuer")
    issuer = Issuer(
        name=OWN_ISSUER,
        issuer=where,
        jwks_url=document.jwks_url or f"{where}/jwks",
        audiences=document.audiences,
        algorithms=frozenset({"ES256"}),
        types=STRICT_TYPE,
        max_token_age=seconds(document.max_lifetime),
        jwks_refresh=60,
    )
    administrators = permission(document.administrators) if document.administrators else NOBODY
    return OwnTokens(issuer, issuer.max_token_age, document.per_owner, administrators)


def _cors(document: CorsDocument | None) -> Cors | None:
    if document is None:
        return None
    headers, exposed = tuple(sorted(document.headers)), tuple(sorted(document.exposed_headers))
    return Cors(document.origins, headers, exposed, seconds(document.max_age), document.credentials)


def _permissions(policy: Policy) -> Iterator[Permission]:
    """All that the policy requires of callers anywhere."""
    yield from (route.permission for route in policy.routes)
    for rule in policy.models.all:
        yield from chain(rule.rights.values(), *(version.values() for version in rule.versions.values()))
    yield from (test.override.permission for test in policy.experiments.values() if test.override)


def _decisive(policy: Policy) -> frozenset[str]:
    """The kinds of names whose absence can give a caller more: see `Claims.decisive`.

    A permission denies them, a plan depends on them, or an expression reads them.
    """
    permissions = list(_permissions(policy))
    conditions = (route.when for route in policy.routes)
    costs = (limit.cost.expression for limit in policy.limits.values())
    read = frozenset().union(*(expression.names for expression in chain(conditions, costs) if expression))
    found = {name for trait, name in _NAMES.items() if any(denies(part, trait) for part in permissions)}
    found |= {name for name in _NAMES.values() if f"identity.{name}" in read}
    return frozenset(found | {"roles" for plan in policy.plans if plan.roles})


def _ensure_distinct(
    issuers: Sequence[IssuerDocument], routes: Sequence[RouteDocument], diagnostics: Diagnostics
) -> None:
    for part, key, names in (
        ("issuers", "name", [issuer.name for issuer in issuers]),
        ("issuers", "issuer", [issuer.issuer for issuer in issuers]),
        ("routes", "name", [route.name for route in routes]),
    ):
        first: dict[str, int] = {}
        for index, name in enumerate(names):
            at = first.setdefault(name, index)
            if at != index:
                hint = f"the first is at {diagnostics.position((part, at, key))}: rename one"
                what = f"{part} has the {key} {shown(name)} twice"
                diagnostics.report((part, index, key), "defined_twice", what, hint)


def _plans(documents: Mapping[str, PlanDocument], diagnostics: Diagnostics) -> tuple[Plan, ...]:
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


def _limits(policy: PolicyDocument, diagnostics: Diagnostics) -> dict[str, LimitRule]:
    if BUDGET in policy.limits:
        what = f"{BUDGET} is the limit of clients whose billing account has used up its budget"
        diagnostics.report_key(("limits", BUDGET), "reserved_name", what, "choose another name")
    for name, document in policy.limits.items():
        for plan in document.plans or {}:
            if plan != DEFAULT_PLAN and plan not in policy.plans:
                diagnostics.report_undefined(("limits", name, "plans", plan), "plan", plan, is_key=True)
        for index, part in enumerate(document.key):
            if part.startswith(CLAIM):
                diagnostics.ensure_kept(("limits", name, "key", index), part.removeprefix(CLAIM))
    _ensure_issuers(policy, diagnostics)
    return {name: _limit(name, document, policy, diagnostics) for name, document in policy.limits.items()}


def _ensure_issuers(policy: PolicyDocument, diagnostics: Diagnostics) -> None:
    known = [issuer.name for issuer in policy.issuers]
    for name in policy.billing_days:
        if name not in known and diagnostics.source.complete:
            hint = did_you_mean(name, known) or f"write one of {', '.join(known)}"
            what = f"the issuer {shown(name)} is not defined"
            diagnostics.report_key(("billing_days", name), "unknown_issuer", what, hint)


def _limit(name: str, document: LimitDocument, policy: PolicyDocument, diagnostics: Diagnostics) -> LimitRule:
    by_plan = {plan: _of_plan(name, document, *amount) for plan, amount in document.rates().items()}
    days = policy.billing_days if document.anchor else None
    return LimitRule(name, by_plan, _cost(name, document.cost, diagnostics), document.dry_run, days)


def _of_plan(name: str, document: LimitDocument, amount: int, period: str) -> Limit:
    algorithm = Algorithm[document.algorithm.upper()]
    burst = (document.burst or amount) if algorithm is Algorithm.GCRA else 0
    by_calendar = period if algorithm is Algorithm.CALENDAR else ""
    return Limit(name, document.key, amount, CALENDAR_PERIODS[period], algorithm, burst, by_calendar)


def _cost(name: str, document: int | CostDocument, diagnostics: Diagnostics) -> Cost:
    if isinstance(document, int):
        return Cost(amount=document, most=document)
    expression = diagnostics.expression(Amount.compile, document.cel, ("limits", name, "cost", "cel"))
    return Cost(header=document.header or "", expression=expression, most=document.max)


def _flood(document: FloodDocument | None) -> Flood | None:
    if document is None:
        return None
    amount, period = rate(document.rate)
    return Flood(amount, PERIODS[period], document.burst or amount)
