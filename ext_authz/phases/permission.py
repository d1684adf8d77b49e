"""Phase 3: may this caller use this route, and this model?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from msgspec import Struct

from ext_authz.decision import Reason, Request
from ext_authz.errors import Denied
from ext_authz.identity.identity import Identity
from ext_authz.phases.context import CheckContext, Trace
from ext_authz.phases.variables import variables
from ext_authz.policy.kserve import Kind, ModelScope, Right
from ext_authz.policy.model import Match, Policy, Route
from ext_authz.policy.rights import EVERYONE, NOBODY, AllOf, AnyOf, Has, ModelNames, ModelRule, Permission, Trait, named

OTHERS = "*"
"""Stands for every version that the policy does not name."""


class Access(Struct, frozen=True):
    """What a caller may do with a version."""

    call: bool
    see: bool


class VisibleModel(Struct, frozen=True, omit_defaults=True):
    """What a caller may do with a model."""

    name: str
    """With a `*`: every model called so for which the policy has no closer rule."""
    call: bool
    """Every version of it, without naming one too; otherwise `versions` has what is left."""
    see: bool
    """Likewise."""
    versions: Mapping[str, Access] = {}


def ensure_permitted(identity: Identity, match: Match, context: CheckContext, request: Request, policy: Policy) -> None:
    """Refuse unless the route's permission, its condition and the right on the model all hold.

    A model that is unknown and one that is forbidden get the same answer. So the right comes after every permission,
    and before the conditions, which may read the name. The index of the models is not refused to who may see some of
    them: then it is `context.answer`. Of an API token with less than its owner has, both must be permitted: a
    permission may be for those who lack a role, and nobody gets it by leaving that role out.

    Raises:
        Denied: FORBIDDEN, `role_missing`, `permission_missing`, `condition_false` or `model_forbidden`.
    """
    phase, route = context.trace and context.trace.add("permission", holds=False), match.route
    callers: tuple[tuple[Identity, Trace | None], ...] = ((identity, phase),)
    if identity.owner is not None:
        whole = phase and phase.add("the owner of the token, with all that they have")
        callers = (identity.owner, whole), *callers
    if phase or route.permission is not EVERYONE:
        for who, trace in callers:
            _ensure_permission(who, route, trace)
    for who, trace in callers:
        _ensure_right(who, identity.models, match, context, policy, trace)
    if phase or route.when is not None:
        for who, trace in callers:
            _ensure_condition(who, match, context.model, context.version, context.now, request, trace)
            if trace:
                trace.holds = True


def ensure_public(match: Match, context: CheckContext, request: Request) -> None:
    """A public route needs no caller, so it reaches no model; its condition sees the request only.

    Raises:
        Denied: FORBIDDEN, `condition_false` or `model_forbidden`.
    """
    phase = context.trace and context.trace.add("permission", holds=False)
    _ensure_condition(None, match, match.model, match.version, context.now, request, phase)
    if match.scope is not ModelScope.NONE:
        raise Denied(Reason.FORBIDDEN, "model_forbidden", "this call concerns a model, and a public route reaches none")
    if phase:
        phase.holds = True


def has(identity: Identity, permission: Permission, trace: Trace | None = None) -> bool:
    """Whether the permission holds for this caller. With a trace every node is evaluated and recorded, the whole in
    `trace` itself; without one, the first node that decides ends it."""
    match permission:
        case Has(trait=trait, values=values):
            holds = not values.isdisjoint(_traits(identity, trait))
        case AnyOf(parts=parts):
            holds = any(_each(identity, parts, trace))
        case AllOf(parts=parts):
            holds = all(_each(identity, parts, trace))
        case _:
            holds = not has(identity, permission.part, trace and trace.add())
    if trace is not None:
        trace.what, trace.holds = trace.what + described(permission), holds
    return holds


def permitted(identity: Identity, permission: Permission, trace: Trace | None = None) -> bool:
    """`has`, of the token and of its owner."""
    return (identity.owner is None or has(identity.owner, permission)) and has(identity, permission, trace)


def described(permission: Permission) -> str:
    """The node alone, for people."""
    if permission in (EVERYONE, NOBODY):
        return "every verified caller" if permission == EVERYONE else "nobody"
    match permission:
        case Has(trait=trait, values=values):
            return f"{trait} {' or '.join(sorted(values))}"
        case AnyOf():
            return "any of"
        case AllOf():
            return "all of"
    return "not"


def may(identity: Identity, right: Right, model: str, version: str, policy: Policy, trace: Trace | None = None) -> bool:
    """Start at deny: without an entry for the model in the policy, nothing is permitted.

    A call that names no version may reach any of them: it takes the right on every version that asks for more.
    """
    rule = policy.models.rule(model)
    if trace:
        note = f"by the rule {rule.name}" if rule else "the policy does not know it"
        trace = trace.add(f"may {right} {_named(model, version)}", holds=False, note=note)
    within = identity.models is None or _within(identity.models, [model], trace)
    return rule is not None and within and _may(identity, right, rule, version, trace)


def may_all(identity: Identity, right: Right, policy: Policy, trace: Trace | None = None) -> bool:
    """The right on every model of the policy; without models it is never granted."""
    rules, whole = policy.models.all, trace and trace.add(f"may {right} every model")
    within = identity.models is None or _within(identity.models, [rule.name for rule in rules], whole)
    each = (_may(identity, right, rule, "", whole and whole.add(f"model {rule.name}")) for rule in rules)
    holds = bool(rules) and within and all([*each] if whole else each)
    if whole:
        whole.holds = holds
    return holds


def visible(identity: Identity, policy: Policy) -> Iterator[VisibleModel]:
    """Every model of which this caller may call or see a version, as far as anybody has named it: the policy, or the
    token that is limited to it. Exactly what `may` says of each."""
    written = identity.models.written if identity.models is not None else ()
    for name in dict.fromkeys((*(rule.name for rule in policy.models.all), *written)):
        rule = policy.models.rule(name)
        if rule is None:
            continue
        whole = _access(identity, name, "", policy)
        narrowed = (*rule.versions, OTHERS) if rule.versions and not (whole.call and whole.see) else ()
        each = {version: _access(identity, name, version, policy) for version in narrowed}
        versions = {version: access for version, access in each.items() if access.call or access.see}
        if whole.call or whole.see or versions:
            yield VisibleModel(name, whole.call, whole.see, versions)


def _access(identity: Identity, model: str, version: str, policy: Policy) -> Access:
    return Access(*(may(identity, right, model, version, policy) for right in (Right.CALL, Right.SEE)))


def _ensure_permission(identity: Identity, route: Route, trace: Trace | None) -> None:
    if not has(identity, route.permission, trace and trace.add(f"permission of the route {route.name}: ")):
        _refuse(route)


def _ensure_condition(
    identity: Identity | None,
    match: Match,
    model: str,
    version: str,
    now: int,
    request: Request,
    trace: Trace | None,
) -> None:
    """A condition without an answer does not hold."""
    condition = match.route.when
    if condition is None:
        return
    verdict = condition.evaluate(variables(identity, match, model, version, request, now, condition.names))
    if trace:
        trace.add(f"condition: {condition.text}", verdict.value, f"no answer: {verdict.error}" if verdict.error else "")
    if not verdict.value:
        raise Denied(Reason.FORBIDDEN, "condition_false", "the condition of this route does not hold for this request")


def _ensure_right(
    identity: Identity,
    limit: ModelNames | None,
    match: Match,
    context: CheckContext,
    policy: Policy,
    trace: Trace | None,
) -> None:
    """`limit`: of the token. A model outside it gets one answer, whether there is one and whose it is or not."""
    right, model, version = match.right, context.model, context.version
    if match.scope is ModelScope.ONE and not may(identity, right, model, version, policy, trace):
        detail = f"this token may not {right} {_named(repr(model), version)}"
        if limit is not None and model not in limit:
            detail = f"this token is limited to other models than {model!r}: its owner can make one for more"
        raise Denied(Reason.FORBIDDEN, "model_forbidden", detail)
    if match.scope is ModelScope.ALL:
        index = match.operation is Kind.REPOSITORY
        if index and not match.grpc:
            _ensure_index(identity, context, policy, trace)
        elif not may_all(identity, right, policy, trace):
            detail = f"this call can reach every model, and this token may not {right} all of them"
            detail += ": GET /.tollgate/models lists those that it may see" if index else ""
            raise Denied(Reason.FORBIDDEN, "model_forbidden", detail)


def _ensure_index(identity: Identity, context: CheckContext, policy: Policy, trace: Trace | None) -> None:
    """Triton's own, with states, for who administers every model. It cannot be shortened, and a Triton that keeps its
    repository to operators refuses it: so all others get ours."""
    if not all(may_all(identity, right, policy) for right in (Right.ADMINISTER, Right.SEE)):
        context.answer = [*_index(identity, policy)]
    if trace:
        trace.add("index of the models that the caller may see", holds=True)


def _index(identity: Identity, policy: Policy) -> Iterator[dict[str, str]]:
    """Triton's index of what the caller may see. A row without a version is of every one, or of those that the policy
    does not name."""
    for model in visible(identity, policy):
        versions = [version for version, access in model.versions.items() if access.see]
        named = [version for version in versions if version != OTHERS]
        if "*" in model.name:
            continue
        if named and not model.see:
            yield from ({"name": model.name, "version": version} for version in named)
        elif model.see or versions:
            yield {"name": model.name}


def _named(model: str, version: str) -> str:
    return f"the model {model}" + (f" in version {version}" if version else "")


def _within(limit: ModelNames, names: Iterable[str], trace: Trace | None) -> bool:
    """Whether a token that is limited so may be used for all of these models, and patterns of models."""
    holds = all(name in limit for name in names)
    if trace:
        trace.add(f"the token is limited to the models {limit}", holds)
    return holds


def _may(identity: Identity, right: Right, rule: ModelRule, version: str, trace: Trace | None) -> bool:
    if identity.owner is not None and not _may(identity.owner, right, rule, version, None):
        if trace:
            trace.add("the owner of the token may", holds=False)
        return False
    holds = has(identity, rule.rights[right], trace and trace.add())
    if rule.versions and (holds or trace):
        narrowed = {version: rule.versions.get(version, {})} if version else rule.versions
        each = (
            has(identity, narrowing[right], trace and trace.add(f"version {name}: "))
            for name, narrowing in narrowed.items()
            if right in narrowing
        )
        holds = all([holds, *each] if trace else each)
    if trace:
        trace.holds = holds
    return holds


def _each(identity: Identity, permissions: Iterable[Permission], trace: Trace | None) -> Iterable[bool]:
    if trace is None:
        return (has(identity, permission) for permission in permissions)
    return [has(identity, permission, trace.add()) for permission in permissions]


def _traits(identity: Identity, trait: Trait) -> Iterable[str]:
    if trait is Trait.ROLE:
        return identity.roles
    if trait is Trait.SCOPE:
        return identity.scopes
    if trait is Trait.GROUP:
        return identity.groups
    return (identity.principal.subject if trait is Trait.PRINCIPAL else identity.principal.client,)


def _refuse(route: Route) -> None:
    """Roles and scopes are named, so that a caller can request one; other people and groups are not."""
    if isinstance(route.permission, Has) and route.permission.trait is Trait.ROLE:
        wanted = " ".join(sorted(route.permission.values))
        raise Denied(Reason.FORBIDDEN, "role_missing", f"this route needs one of the roles: {wanted}", scope=wanted)
    scopes, roles = (sorted(named(route.permission, trait)) for trait in (Trait.SCOPE, Trait.ROLE))
    detail = "this token does not have the permission that this route needs"
    for what, names in (("scopes", scopes), ("roles", roles)):
        detail += f"; {what} in it: {', '.join(names)}" if names else ""
    raise Denied(Reason.FORBIDDEN, "permission_missing", detail, scope=" ".join(scopes))
