"""Which headers the authorizer receives, and which callers may not send."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from msgspec.structs import replace

from ext_authz.decision import Allow, Principal
from ext_authz.edge.response import Responder
from ext_authz.gen.tollgate.envoy.v3.external_auth_pb2 import CheckResponse
from ext_authz.policy.cel.expressions import Amount, Condition
from ext_authz.policy.kserve import Kind
from ext_authz.policy.model import DEFAULT_PLAN, Cost, Limit, LimitRule, Responses
from ext_authz.render.filters import check
from ext_authz.render.headers import MISLEADING, RESERVED, RESERVED_PREFIX, refused, wanted
from tests.unit.render.policies import CANARY, at, demo, of_kinds, policy

ALWAYS = {"authorization", "content-encoding", "content-length", "content-type", "grpc-encoding"}
ALWAYS |= {"traceparent", "tracestate", "x-forwarded-for"}
ALLOWED = Allow("0" * 36, Principal("i", "s", "c", ("r",), "t"), "route", "model")


def costing(cost: Cost) -> Mapping[str, LimitRule]:
    return {"rows": LimitRule("rows", {DEFAULT_PLAN: Limit("rows", ("user",), 10, 60)}, cost)}


@pytest.mark.parametrize(
    ("parts", "named"),
    [
        ({}, set()),
        ({"routes": (at("/a", headers=frozenset({"x-batch"})),)}, {"x-batch"}),
        ({"limits": costing(Cost(header="x-batch-rows", most=9))}, {"x-batch-rows"}),
        (
            {"limits": costing(Cost(expression=Amount.compile("size(request.headers['x-rows'])"), most=9))},
            {"x-rows"},
        ),
        ({"experiments": {"sentiment": CANARY}}, {"x-experiment"}),
        ({"routes": (at("/a", when=Condition.compile("request.headers['X-Tenant'] == 'a'")),)}, {"x-tenant"}),
        ({"routes": (at("/a", when=Condition.compile("has(request.headers.tenant)")),)}, {"tenant"}),
        ({"routes": (at("/a", when=Condition.compile("identity.subject == 'a'")),)}, set()),
    ],
)
def test_headers_that_the_policy_names(parts: dict[str, Any], named: set[str]) -> None:
    routes = parts.pop("routes", demo().routes)
    found = wanted(policy(*routes, **parts))
    assert found is not None
    assert set(found) == ALWAYS | named
    assert list(found) == sorted(found)


def test_what_a_token_that_is_bound_to_a_key_needs() -> None:
    """Only where the policy verifies it: a certificate is larger than all the rest of a check."""
    bound = policy(*demo().routes, issuers=(replace(demo().issuers[0], cnf="verify"),))
    assert set(wanted(bound) or ()) == ALWAYS | {"dpop"}
    assert check(bound)["include_peer_certificate"] is True
    assert "include_peer_certificate" not in check(demo())


def test_a_condition_over_all_headers_is_shown_all_but_credentials() -> None:
    whole = policy(at("/a", when=Condition.compile("size(request.headers) < 50")))
    assert wanted(whole) is None
    rendered = check(whole)
    assert "allowed_headers" not in rendered
    refused = [one["exact"] for one in rendered["disallowed_headers"]["patterns"]]
    assert refused == ["cookie", "proxy-authorization", "x-tollgate-token"]


def test_what_misleads_a_server_may_not_be_sent_unless_the_policy_asks_for_it() -> None:
    assert refused(demo()) == (*RESERVED, *MISLEADING)
    behind_a_proxy = policy(at("/a", headers=frozenset({"x-forwarded-host", "x-user-id"})))
    assert set(MISLEADING) - set(refused(behind_a_proxy)) == {"x-forwarded-host"}
    assert set(RESERVED) <= set(refused(behind_a_proxy))
    assert set(MISLEADING) <= set(refused(policy(at("/a", when=Condition.compile("size(request.headers) < 50")))))


def test_no_other_header_leaves_envoy() -> None:
    rendered = check(of_kinds(Kind.INFER))
    assert {one["exact"] for one in rendered["allowed_headers"]["patterns"]} == ALWAYS
    assert "disallowed_headers" not in rendered


def test_all_headers_for_a_model_are_reserved() -> None:
    answer = CheckResponse.FromString(Responder("r", Responses(), "p").build(ALLOWED, request_is_grpc=False))
    written = {option.header.key for option in answer.ok_response.headers}
    assert {name for name in written if not name.startswith(RESERVED_PREFIX)} <= set(RESERVED)
    assert {"x-user-id", "x-decision-id"} <= written
