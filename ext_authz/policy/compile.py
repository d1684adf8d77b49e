"""Compiles a document into a policy, and reports what is wrong between its parts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from msgspec.structs import replace

from ext_authz.policy import compile_limits, compile_models, compile_routes
from ext_authz.policy.compile_models import denies
from ext_authz.policy.diagnostics import Diagnostics
from ext_authz.policy.documents import PolicyDocument
from ext_authz.policy.documents.base import ClaimName, claim_path, seconds
from ext_authz.policy.documents.issuers import IssuerDocument
from ext_authz.policy.documents.routes import RouteDocument
from ext_authz.policy.faults import Fault, shown
from ext_authz.policy.model import ClaimPath, Claims, Failure, Issuer, Policy, Responses, Route
from ext_authz.policy.rights import Trait
from ext_authz.policy.source import Source

_ANY_TYPE = frozenset({"jwt", "at+jwt", "application/at+jwt"})
_NAMES = {Trait.ROLE: "roles", Trait.SCOPE: "scopes", Trait.GROUP: "groups"}
_STRICT_TYPE = frozenset({"at+jwt", "application/at+jwt"})


def compiled_policy(document: PolicyDocument, source: Source) -> tuple[Policy, list[Fault]]:
    """The policy, and its faults; it may be used only where there are none."""
    diagnostics = Diagnostics(source, {name for issuer in document.issuers for name in issuer.claims.keep})
    _ensure_distinct(document.issuers, document.routes, diagnostics)
    models = compile_models.model_rules(document.models, diagnostics)
    limits = compile_limits.limits(document.limits, document.plans, diagnostics)
    failure = compile_routes.failure(document.failure, Failure())
    of_all = Route("", failure=failure, max_duration=seconds(document.max_duration))
    policy = Policy(
        hash=source.digest,
        issuers=(),
        routes=compile_routes.routes(document.routes, limits, of_all, diagnostics),
        models=models,
        realm=document.realm,
        plans=compile_limits.plans(document.plans, diagnostics),
        limits=limits,
        flood=compile_limits.flood(document.flood),
        trusted_hops=document.client_address.trusted_hops,
        experiments=compile_models.experiments(document.experiments, models, diagnostics),
        failure=failure,
        responses=Responses(**dict(document.responses)),
        explain_keep=seconds(document.explain.keep),
    )
    decisive = _decisive(policy)
    policy = replace(policy, issuers=tuple(_issuer(issuer, decisive) for issuer in document.issuers))
    return policy, diagnostics.faults


def _decisive(policy: Policy) -> frozenset[str]:
    """The kinds of names whose absence can give a caller more: see `Claims.decisive`.

    A permission denies them, a plan depends on them, or an expression reads them.
    """
    permissions = [route.permission for route in policy.routes]
    for rule in policy.models.all:
        permissions += [*rule.rights.values(), *chain(*(version.values() for version in rule.versions.values()))]
    permissions += [test.override.permission for test in policy.experiments.values() if test.override]
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


def _issuer(document: IssuerDocument, decisive: frozenset[str]) -> Issuer:
    return Issuer(
        name=document.name,
        issuer=document.issuer,
        jwks_url=document.key_set_url(),
        audiences=document.audiences,
        algorithms=frozenset(document.algorithms),
        types=_STRICT_TYPE if document.strict_type else _ANY_TYPE,
        clients=document.clients,
        claims=_claims(document, decisive),
        take_bound=document.cnf == "ignore",
        leeway=seconds(document.leeway),
        max_token_age=seconds(document.max_token_age),
        jwks_refresh=seconds(document.jwks_refresh),
        jwks_cooldown=seconds(document.jwks_cooldown),
        jwks_max_stale=seconds(document.jwks_max_stale),
    )


def _claims(document: IssuerDocument, decisive: frozenset[str]) -> Claims:
    claims = document.claims
    return Claims(
        roles=_role_paths(document) if claims.roles is None else _paths(claims.roles),
        scopes=_paths(claims.scopes),
        groups=_paths(claims.groups),
        keep={name: claim_path(name) for name in claims.keep},
        decisive=decisive,
    )


def _role_paths(document: IssuerDocument) -> tuple[ClaimPath, ...]:
    """Where Keycloak has them."""
    client = document.roles_client
    return (*Claims().roles, ("resource_access", client, "roles")) if client else Claims().roles


def _paths(names: Sequence[ClaimName]) -> tuple[ClaimPath, ...]:
    return tuple(map(claim_path, names))
