"""From what the check found on its way to an account of each phase; asked of the functions that the check asks."""

from __future__ import annotations

from collections.abc import Iterator

from ext_authz.decision import Deny, Reason
from ext_authz.identity.identity import Identity, plain
from ext_authz.policy.kserve import ModelScope
from ext_authz.policy.model import Match
from ext_authz.policytool.account import NOT_ASKED, Account, Statement
from ext_authz.policytool.door import Asked
from ext_authz.policytool.explain_experiment import experiment
from ext_authz.policytool.explain_limits import limits
from ext_authz.policytool.explain_permission import permission
from ext_authz.policytool.explain_routes import routes


def explained(asked: Asked) -> Account:
    """Every phase, in the order of `check.py`."""
    decision = asked.decision
    denied = decision if isinstance(decision, Deny) else None
    return Account(
        policy=asked.policy.hash,
        request=_request(asked),
        decision="deny" if denied else "allow",
        reason=denied.reason if denied else Reason.ALLOWED,
        code=denied.code if denied else "",
        detail=denied.detail if denied else "",
        phases=(
            _route(asked),
            _identity(asked),
            _permission(asked),
            *_revoked(asked),
            limits(asked),
            *experiment(asked),
        ),
        status=asked.told.status,
        grpc=asked.told.grpc,
        headers=asked.told.headers,
    )


def _request(asked: Asked) -> str:
    request = asked.request
    named = f" for the model {asked.found.model}" if request.models and asked.found.model else ""
    return f"{request.method} {request.path} at {request.host}{' over gRPC' if request.is_grpc else ''}{named}"


def _refusal(asked: Asked) -> str:
    return asked.decision.detail if isinstance(asked.decision, Deny) else ""


def _served(asked: Asked) -> Match | None:
    """The match, where the call is made over the protocol that it is served over."""
    match = asked.found.match
    return match if match and match.grpc == asked.request.is_grpc else None


def _route(asked: Asked) -> Statement:
    served, match = _served(asked), asked.found.match
    parts = routes(asked.policy, match.route if match else None, asked.request)
    note = match.route.name if match and served else _refusal(asked)
    return Statement("route", served is not None, note, (*parts, *_call(match, asked)))


def _call(match: Match | None, asked: Asked) -> Iterator[Statement]:
    if match is None:
        return
    yield Statement("served over", note="gRPC" if match.grpc else "plain HTTP")
    yield Statement("operation", note=match.operation.value if match.operation else "not of the KServe surface")
    if match.scope is ModelScope.ALL:
        yield Statement("takes the right", note=f"{match.right} on every model")
    elif match.scope is ModelScope.ONE:
        named = asked.found.model or match.model or "the model that the message names"
        yield Statement("takes the right", note=f"{match.right} on {named}")


def _identity(asked: Asked) -> Statement:
    match, identity = _served(asked), asked.found.identity
    if match is None:
        return Statement("identity", note=NOT_ASKED)
    if match.route.public:
        return Statement("identity", note="the route is public: nobody is asked who they are")
    if identity is None:
        return Statement("identity", holds=False, note=_refusal(asked))
    who = identity.principal
    note = f"{who.subject} of {identity.issuer_name}"
    return Statement("identity", holds=True, note=note, parts=tuple(_facts(identity)))


def _facts(identity: Identity) -> Iterator[Statement]:
    yield Statement("client", note=identity.principal.client or "-")
    for what, names in (("roles", identity.roles), ("scopes", identity.scopes), ("groups", identity.groups)):
        fit = plain(sorted(names))
        rest = [f"and {len(names) - len(fit)} too long or unprintable"] if len(fit) < len(names) else []
        yield Statement(what, note=", ".join([*fit, *rest]) or "-")
    for name in identity.claims:
        yield Statement(f"claim {name}", note=", ".join(identity.texts(name)))


def _revoked(asked: Asked) -> Iterator[Statement]:
    """The settlement looks for that first: of a revoked call no limit was asked."""
    if isinstance(asked.decision, Deny) and asked.decision.reason is Reason.REVOKED:
        yield Statement("not revoked", holds=False, note=f"the {asked.decision.revoked_by} is revoked")


def _permission(asked: Asked) -> Statement:
    match, found = _served(asked), asked.found
    if match is None or (found.identity is None and not match.route.public):
        return Statement("permission", note=NOT_ASKED)
    granted = found.charge is not None or (match.route.public and not isinstance(asked.decision, Deny))
    return Statement("permission", granted, "" if granted else _refusal(asked), tuple(permission(asked)))
