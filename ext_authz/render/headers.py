"""Which headers of a request the authorizer receives, and which callers may not send."""

from __future__ import annotations

from collections.abc import Iterator

from ext_authz.ledger.event import USAGE_UNITS
from ext_authz.policy.cel.variables import Keys
from ext_authz.policy.model import Policy

VARIANT = "x-model-variant"
"""Variant of the called model: set by the authorizer, matched by routes."""
MODEL = "x-authz-model"
"""Its name, or `*`: set by the authorizer, matched by routes whose calls are copied."""
VERSION, ANY_VERSION = "x-authz-version", "*"
"""The version that the call names, or any: set by the authorizer. Calls that name one are not copied: the server of the
other variant does not have it."""

UPSTREAM = "x-authz-upstream"
"""The application that serves the path, if one does: set by the authorizer, matched by its routes."""

USER = "x-user-id"
"""The verified user: set by the authorizer, and missing on public routes."""

LOGGED = ["grpc-status", USAGE_UNITS]
"""Of an answer, for the access log; each may be in its headers, where there is no message, or in its trailers."""

RESERVED = (
    *(USER, "x-client-id", "x-user-roles", "x-token-issuer"),
    *(MODEL, VERSION, "x-decision-id", VARIANT, UPSTREAM),
)
"""Set by the authorizer only. It overwrites each that it sets; one that it does not set must not come from a caller."""
RESERVED_PREFIX = "x-envoy-"
"""Instructions to Envoy, and its own reports (`x-envoy-auth-...`)."""

MISLEADING = (
    *("x-original-url", "x-original-uri", "x-original-host", "x-original-method", "x-rewrite-url"),
    *("x-http-method", "x-http-method-override", "x-method-override"),
    *("x-forwarded-host", "x-forwarded-method", "x-forwarded-path", "x-forwarded-prefix", "x-forwarded-uri"),
)
"""Some servers take path, method or host from these, not from the request that was checked."""

TOKEN_COPY = "x-tollgate-token"  # noqa: S105 - the name of a header
"""For a second verification, inside of the proxy."""

CREDENTIALS = ("cookie", "proxy-authorization", TOKEN_COPY)
"""Never sent to the authorizer."""

_ALWAYS = (
    *("authorization", "content-encoding", "content-length", "content-type", "grpc-encoding"),
    *("traceparent", "tracestate", "x-forwarded-for"),
)
_HEADERS = "request.headers"


def wanted(policy: Policy) -> tuple[str, ...] | None:
    """What a check needs, in lower case, sorted; None: a condition reads the headers as a whole."""
    named: set[str] = {*_ALWAYS, *(["dpop"] if verifies_keys(policy) else [])}
    for names in _named(policy):
        if names is None:
            return None
        named |= {name.lower() for name in names}
    return tuple(sorted(named))


def verifies_keys(policy: Policy) -> bool:
    """Whether some tokens are bound to keys, and come with a DPoP proof or a client certificate."""
    return any(issuer.cnf == "verify" for issuer in policy.issuers)


def refused(policy: Policy) -> tuple[str, ...]:
    """What callers may not send. A header that the policy names is checked, and so stays."""
    named = wanted(policy) or ()
    return (*RESERVED, *(name for name in MISLEADING if name not in named))


def _named(policy: Policy) -> Iterator[Keys]:
    for route in policy.routes:
        yield route.headers
        if route.when is not None:
            yield route.when.reads.get(_HEADERS, frozenset())
    for rule in policy.limits.values():
        yield frozenset({rule.cost.header} - {""})
        if rule.cost.expression is not None:
            yield rule.cost.expression.reads.get(_HEADERS, frozenset())
    for experiment in policy.experiments.values():
        if experiment.override is not None:
            yield frozenset({experiment.override.header})
