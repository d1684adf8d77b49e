"""Phase 3: may this caller use this route, and this model?"""

from __future__ import annotations

from ext_authz.decision import Reason, Request
from ext_authz.errors import Denied
from ext_authz.identity.identity import Identity
from ext_authz.phases.access import has, may, may_all, model_named
from ext_authz.phases.bodies import ensure_uncompressed
from ext_authz.phases.context import CheckContext, Trace
from ext_authz.phases.model_reads import index
from ext_authz.phases.variables import variables
from ext_authz.policy.kserve import Kind, ModelScope, Right
from ext_authz.policy.model import Match, Policy, Route
from ext_authz.policy.rights import EVERYONE, Has, ModelNames, Trait, named


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
        Denied: BAD_REQUEST, `body_compressed`; FORBIDDEN, `condition_false` or `model_forbidden`.
    """
    ensure_uncompressed(request, match)
    phase = context.trace and context.trace.add("permission", holds=False)
    _ensure_condition(None, match, match.model, match.version, context.now, request, phase)
    if match.scope is not ModelScope.NONE:
        raise Denied(Reason.FORBIDDEN, "model_forbidden", "this call concerns a model, and a public route reaches none")
    if phase:
        phase.holds = True


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
        detail = f"this token may not {right} {model_named(repr(model), version)}"
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
        context.answer = [*index(identity, policy)]
    if trace:
        trace.add("index of the models that the caller may see", holds=True)


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
