"""Which headers of a request the authorizer gets to see, and which nobody outside may send."""

from __future__ import annotations

from collections.abc import Iterator

from ext_authz.policy.cel.bounds import bounded
from ext_authz.policy.cel.expressions import checked
from ext_authz.policy.cel.variables import Keys
from ext_authz.policy.model import Policy

VARIANT = "x-model-variant"
"""What the authorizer says about the variant of the called model, and routes match."""

RESERVED = (
    *(
        "x-user-id",
        "x-client-id",
        "x-user-roles",
        "x-token-issuer",
        "x-authz-model",
        "x-authz-version",
        "x-decision-id",
    ),
    VARIANT,
)
"""Set by the authorizer only. It overwrites each that it sets; what it does not set must not come from outside."""
RESERVED_PREFIX = "x-envoy-"
"""Instructions to Envoy, and its own reports (`x-envoy-auth-...`)."""

MISLEADING = (
    *("x-original-url", "x-original-uri", "x-original-host", "x-original-method", "x-rewrite-url"),
    *("x-http-method", "x-http-method-override", "x-method-override"),
    *("x-forwarded-host", "x-forwarded-method", "x-forwarded-path", "x-forwarded-prefix", "x-forwarded-uri"),
)
"""By these some servers serve another path, method or host than the one that was judged."""

CREDENTIALS = ("cookie", "proxy-authorization")
"""Not the authorizer's business."""

_ALWAYS = ("authorization", "content-type", "x-forwarded-for")
_HEADERS = "request.headers"


def asked(policy: Policy) -> tuple[str, ...] | None:
    """What a check needs, in lower case, sorted; None: a condition looks at the headers as a whole."""
    named: set[str] = {*_ALWAYS}
    for names in _named(policy):
        if names is None:
            return None
        named |= {name.lower() for name in names}
    return tuple(sorted(named))


def refused(policy: Policy) -> tuple[str, ...]:
    """What nobody outside may send. A header that the policy itself asks for misleads nobody."""
    named = asked(policy) or ()
    return (*RESERVED, *(name for name in MISLEADING if name not in named))


def _named(policy: Policy) -> Iterator[Keys]:
    for route in policy.routes:
        yield route.headers
        if route.when is not None:
            yield _read_by(route.when.text)
    for rule in policy.limits.values():
        yield frozenset({rule.cost.header} - {""})
        if rule.cost.expression is not None:
            yield _read_by(rule.cost.expression.text)
    for experiment in policy.experiments.values():
        if experiment.override is not None:
            yield frozenset({experiment.override.header})


def _read_by(expression: str) -> Keys:
    """The headers that an expression in CEL names; None: all."""
    return bounded(checked(expression).serialize()).get(_HEADERS, frozenset())
