"""One request that the tests put conditions to."""

from __future__ import annotations

from ext_authz.policy.cel.expressions import Condition, Verdict
from ext_authz.policy.cel.variables import Call, Caller, Moment, Target, Variables

THURSDAY_NOON = 1_760_011_200  # 2025-10-09T12:00:00Z

REQUEST = Variables(
    identity=Caller(
        subject="alice",
        client="notebook",
        issuer="demo",
        roles=frozenset({"infer", "admin"}),
        scopes=frozenset({"models:read"}),
        groups=("/ml/vision", "/ml/text"),
        audiences=("gateway",),
        claims={"plan": "gold", "seats": 3, "share": 0.5, "verified": True, "none": None, "nested": {"list": [1, 2]}},
    ),
    request=Call(
        method="POST",
        host="models.example",
        path="/v2/models/cancer/infer",
        query="trace=1",
        headers={"x-batch": "64", "user-agent": "curl/8"},
        source="10.1.2.3",
        is_grpc=False,
    ),
    model=Target(name="cancer", version="3", operation="infer", right="call"),
    time=Moment(THURSDAY_NOON),
)


def verdict(text: str, variables: Variables = REQUEST) -> Verdict:
    return Condition.compile(text).evaluate(variables)


def with_claims(**claims: object) -> Variables:
    return Variables(identity=Caller(claims=claims))
