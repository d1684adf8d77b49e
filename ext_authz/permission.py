"""Phase 3: may this caller use this route, and this model? The same answer shapes the list of models a caller sees."""

from __future__ import annotations

from collections.abc import Mapping

from ext_authz.decision import Reason
from ext_authz.errors import Denied
from ext_authz.identity.identity import Identity
from ext_authz.policy.model import Route
from ext_authz.policy.operation import ModelScope


def ensure_permitted(identity: Identity, route: Route, model: str, models: Mapping[str, frozenset[str]]) -> None:
    """Refuse unless every demand of the route is met. A model that is unknown and one that is forbidden answer alike.

    Raises:
        Denied: FORBIDDEN, `role_missing` or `model_forbidden`.
    """
    if route.roles and identity.roles.isdisjoint(route.roles):
        _refuse_role(route)
    if route.model is ModelScope.ONE and not may_call(identity, model, models):
        raise Denied(Reason.FORBIDDEN, "model_forbidden", f"this token may not call the model {model!r}")
    if route.model is ModelScope.ALL and not all(may_call(identity, name, models) for name in models):
        detail = "a stream can reach every model, and this token may not call all of them: use unary calls"
        raise Denied(Reason.FORBIDDEN, "model_forbidden", detail)


def may_call(identity: Identity, model: str, models: Mapping[str, frozenset[str]]) -> bool:
    """Start at deny: a model that the policy does not name may not be called by anyone."""
    return not identity.roles.isdisjoint(models.get(model, frozenset()))


def _refuse_role(route: Route) -> None:
    wanted = " ".join(sorted(route.roles))
    raise Denied(Reason.FORBIDDEN, "role_missing", f"this route needs one of the roles: {wanted}", scope=wanted)
