"""Phase 3: may this caller use this route, and this model?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ext_authz.decision import Reason, Request
from ext_authz.errors import Denied
from ext_authz.identity.identity import Identity
from ext_authz.policy.cel.expressions import Verdict
from ext_authz.policy.cel.variables import Call, Caller, Moment, Target, Variables
from ext_authz.policy.kserve import ModelScope, Right
from ext_authz.policy.model import Match, Policy, Route
from ext_authz.policy.rights import EVERYONE, AllOf, AnyOf, Has, ModelRule, Permission, Trait

_CREDENTIALS = frozenset({"authorization", "proxy-authorization", "cookie"})


def ensure_permitted(
    identity: Identity, match: Match, model: str, version: str, request: Request, policy: Policy, now: int
) -> None:
    """Refuse unless the route's permission, its condition and the right on the model all hold.

    A model that is unknown and one that is forbidden answer alike.

    Raises:
        Denied: FORBIDDEN, `role_missing`, `permission_missing`, `condition_false` or `model_forbidden`.
    """
    if match.route.permission is not EVERYONE and not has(identity, match.route.permission):
        _refuse(match.route)
    ensure_condition(identity, match, model, version, request, now)
    _ensure_right(identity, match, model, version, policy)


def ensure_public(match: Match, request: Request, now: int) -> None:
    """A public route asks for nobody, so it reaches no model; its condition can look at the request only.

    Raises:
        Denied: FORBIDDEN, `condition_false` or `model_forbidden`.
    """
    ensure_condition(None, match, match.model, match.version, request, now)
    if match.scope is not ModelScope.NONE:
        raise Denied(Reason.FORBIDDEN, "model_forbidden", "this call concerns a model, and a public route reaches none")


def has(identity: Identity, permission: Permission) -> bool:
    match permission:
        case Has(trait=trait, values=values):
            return not values.isdisjoint(_traits(identity, trait))
        case AnyOf(parts=parts):
            return any(has(identity, part) for part in parts)
        case AllOf(parts=parts):
            return all(has(identity, part) for part in parts)
    return not has(identity, permission.part)


def may(identity: Identity, right: Right, model: str, version: str, policy: Policy) -> bool:
    """Start at deny: with a model that the policy does not know nobody may anything.

    A call that names no version may reach any of them: it takes the right on every version that asks for more.
    """
    rule = policy.models.rule(model)
    return rule is not None and _may(identity, right, rule, version)


def may_all(identity: Identity, right: Right, policy: Policy) -> bool:
    """The right on every model of the policy; without models nobody has it."""
    rules = policy.models.all
    return bool(rules) and all(_may(identity, right, rule, "") for rule in rules)


def judged(
    identity: Identity | None, match: Match, model: str, version: str, request: Request, now: int
) -> Verdict | None:
    """What the condition of the route says, with the reason where it has no answer; None: there is no condition."""
    condition = match.route.when
    if condition is None:
        return None
    return condition.evaluate(variables(identity, match, model, version, request, now, condition.names))


def ensure_condition(
    identity: Identity | None, match: Match, model: str, version: str, request: Request, now: int
) -> None:
    """Raises Denied (`condition_false`) unless the route's condition holds. No answer is a no."""
    verdict = judged(identity, match, model, version, request, now)
    if verdict is not None and not verdict.value:
        raise Denied(Reason.FORBIDDEN, "condition_false", "the condition of this route does not hold for this request")


def _ensure_right(identity: Identity, match: Match, model: str, version: str, policy: Policy) -> None:
    right = match.right
    if match.scope is ModelScope.ONE and not may(identity, right, model, version, policy):
        raise Denied(Reason.FORBIDDEN, "model_forbidden", f"this token may not {right} {_shown(model, version)}")
    if match.scope is ModelScope.ALL and not may_all(identity, right, policy):
        detail = f"this call can reach every model, and this token may not {right} all of them"
        raise Denied(Reason.FORBIDDEN, "model_forbidden", detail)


def _shown(model: str, version: str) -> str:
    return f"the model {model!r}" + (f" in version {version}" if version else "")


def _may(identity: Identity, right: Right, rule: ModelRule, version: str) -> bool:
    if not has(identity, rule.rights[right]):
        return False
    if not rule.versions:
        return True
    narrowed = [rule.versions.get(version, {})] if version else rule.versions.values()
    return all(right not in narrowing or has(identity, narrowing[right]) for narrowing in narrowed)


def _traits(identity: Identity, trait: Trait) -> Iterable[str]:
    if trait is Trait.ROLE:
        return identity.roles
    if trait is Trait.SCOPE:
        return identity.scopes
    if trait is Trait.GROUP:
        return identity.groups
    return (identity.principal.subject if trait is Trait.PRINCIPAL else identity.principal.client,)


def _refuse(route: Route) -> None:
    """Roles are named, so that a caller knows what to ask for; other people and groups are not."""
    if isinstance(route.permission, Has) and route.permission.trait is Trait.ROLE:
        wanted = " ".join(sorted(route.permission.values))
        raise Denied(Reason.FORBIDDEN, "role_missing", f"this route needs one of the roles: {wanted}", scope=wanted)
    raise Denied(
        Reason.FORBIDDEN, "permission_missing", "this token does not have the permission that this route needs"
    )


def variables(
    identity: Identity | None, match: Match, model: str, version: str, request: Request, now: int, names: frozenset[str]
) -> Variables:
    """`names`: those that the expression looks at, so that no more than these is made."""
    headers = _harmless(request.headers) if "request.headers" in names else {}
    return Variables(
        identity=Caller() if identity is None else _caller(identity),
        request=_call(request, headers),
        model=_target(match, model, version),
        time=Moment(now),
    )


def _target(match: Match, model: str, version: str) -> Target:
    operation = match.operation.value if match.operation else ""
    if match.scope is ModelScope.ALL:
        return Target(None, None, operation, match.right.value)
    return Target(model, version, operation, "" if match.scope is ModelScope.NONE else match.right.value)


def _harmless(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name not in _CREDENTIALS}


def _caller(identity: Identity) -> Caller:
    return Caller(
        subject=identity.principal.subject,
        client=identity.principal.client,
        issuer=identity.issuer_name,
        roles=identity.roles,
        scopes=identity.scopes,
        groups=identity.groups,
        audiences=identity.audiences,
        claims={name: list(value) if isinstance(value, tuple) else value for name, value in identity.claims.items()},
    )


def _call(request: Request, headers: Mapping[str, str]) -> Call:
    return Call(
        method=request.method,
        host=request.host,
        path=request.path,
        query=request.query,
        headers=headers,
        source=request.source,
        is_grpc=request.is_grpc,
    )
