"""What an expression of the policy may see of one call."""

from __future__ import annotations

from collections.abc import Mapping

from ext_authz.decision import Request
from ext_authz.identity.identity import Identity
from ext_authz.policy.cel.variables import Call, Caller, Moment, Target, Variables
from ext_authz.policy.kserve import ModelScope
from ext_authz.policy.model import Match

_CREDENTIALS = frozenset({"authorization", "proxy-authorization", "cookie"})


def variables(
    identity: Identity | None, match: Match, model: str, version: str, request: Request, now: int, names: frozenset[str]
) -> Variables:
    """What an expression of the policy may see of one call: the caller, the request without credentials, the model.

    `names`: the variables that the expression uses, so that no more than these is built.
    """
    headers = _harmless(request.headers) if "request.headers" in names else {}
    return Variables(
        identity=Caller() if identity is None else _caller(identity),
        request=_call(request, match.path or request.path, headers),
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


def _call(request: Request, path: str, headers: Mapping[str, str]) -> Call:
    return Call(
        method=request.method,
        host=request.host,
        path=path,
        query=request.query,
        headers=headers,
        source=request.source,
        is_grpc=request.is_grpc,
    )
