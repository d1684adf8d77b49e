"""Allow -> CheckResponse."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from ext_authz.decision import ANONYMOUS, Allow, Principal, Quota
from ext_authz.edge.response import Responder
from ext_authz.gen.tollgate.envoy.v3.external_auth_pb2 import CheckResponse
from ext_authz.policy.model import Responses
from ext_authz.policy.names import CONSOLE
from tests.unit.edge.answers import DECISION_ID, headers, metadata, read

RESPONDER = Responder("tollgate", Responses("urn:tollgate:problem:"), "0123456789abcdef")
ALICE = Principal("https://kc.example/realms/ml", "alice", "web-app", ("infer", "admin"), "onrtac:1f65761e")
QUOTAS = (Quota("user", 10, 60, 9, 37), Quota("user-path", 100, 60, 0, 5))


def _allow(
    principal: Principal = ALICE, *, model: str = "sentiment", quotas: tuple[Quota, ...] = QUOTAS
) -> CheckResponse:
    return read(_allow_bytes(principal, model=model, quotas=quotas))


def _allow_bytes(
    principal: Principal = ALICE,
    *,
    model: str = "sentiment",
    quotas: tuple[Quota, ...] = QUOTAS,
    decision_id: str = DECISION_ID,
) -> bytes:
    return RESPONDER.build(Allow(decision_id, principal, "infer", model, quotas), request_is_grpc=False)


def test_is_ok_with_an_ok_response() -> None:
    answer = _allow()

    assert answer.HasField("status")
    assert answer.status.code == 0
    assert answer.WhichOneof("http_response") == "ok_response"


@pytest.mark.parametrize(("width", "fit"), [(20, 194), (255, 15)])
def test_a_model_is_told_as_many_roles_as_servers_take(width: int, fit: int) -> None:
    """And that there are more, by what no role is written as."""
    roles = tuple(f"{number:03}".ljust(width, "x") for number in range(500))
    sent = headers(_allow(replace(ALICE, roles=roles)).ok_response.headers)["x-user-roles"]
    assert sent.split(",") == [*roles[:fit], "!more"]
    assert len(sent) <= 4096
    assert "!more" not in headers(_allow(replace(ALICE, roles=roles[:fit])).ok_response.headers)["x-user-roles"]
    assert headers(_allow(replace(ALICE, roles=("!more",))).ok_response.headers)["x-user-roles"] == "%21more"


def test_identity_headers() -> None:
    assert headers(_allow().ok_response.headers) == {
        "x-user-id": "alice",
        "x-client-id": "web-app",
        "x-user-roles": "infer,admin",
        "x-token-issuer": "https://kc.example/realms/ml",
        "x-authz-model": "sentiment",
        "x-authz-version": "*",
        "x-model-variant": "-",
        "x-decision-id": DECISION_ID,
        "x-envoy-upstream-stream-duration-ms": "600000",
    }


def test_callers_read_which_version_answers() -> None:
    served = RESPONDER.build(Allow(DECISION_ID, ALICE, "infer", "sentiment", served="2"), request_is_grpc=False)
    assert headers(read(served).ok_response.response_headers_to_add)["x-model-version"] == "2"
    assert headers(read(served).ok_response.headers)["x-authz-version"] == "*", "the model compares what was authorised"
    assert "x-model-version" not in headers(read(_allow_bytes()).ok_response.response_headers_to_add)


def test_the_variant_overwrites_the_callers_and_is_told_to_model_caller_and_log() -> None:
    canary = RESPONDER.build(Allow(DECISION_ID, ALICE, "infer", "sentiment", variant="canary"), request_is_grpc=False)
    none = _allow_bytes()

    assert headers(read(canary).ok_response.headers)["x-model-variant"] == "canary"
    assert headers(read(canary).ok_response.response_headers_to_add)["x-model-variant"] == "canary"
    assert metadata(canary)["variant"] == "canary"
    assert headers(read(none).ok_response.headers)["x-model-variant"] == "-"
    assert "x-model-variant" not in headers(read(none).ok_response.response_headers_to_add)
    assert "variant" not in metadata(none)


@pytest.mark.parametrize(
    ("target", "sent"),
    [
        ({}, ("-", "-")),
        ({"model": "m"}, ("m", "*")),
        ({"model": "m", "version": "2"}, ("m", "2")),
        ({"every_model": True}, ("*", "*")),
        ({"every_model": True, "model": "m", "version": "2"}, ("*", "*")),
    ],
)
def test_what_was_authorised_is_one_model_and_version_or_every_one_or_none(
    target: dict[str, Any], sent: tuple[str, str]
) -> None:
    allow = Allow(DECISION_ID, ALICE, "infer", **target)
    found = headers(read(RESPONDER.build(allow, request_is_grpc=True)).ok_response.headers)
    assert (found["x-authz-model"], found["x-authz-version"]) == sent


def test_without_a_caller_every_header_is_a_dash_and_replaces_the_callers() -> None:
    sent = headers(_allow(ANONYMOUS, model="", quotas=()).ok_response.headers)

    assert sent.keys() == headers(_allow().ok_response.headers).keys()
    of_the_call = {"x-decision-id", "x-envoy-upstream-stream-duration-ms"}
    assert {value for name, value in sent.items() if name not in of_the_call} == {"-"}


@pytest.mark.parametrize("lasts", [1, 999, 1_000, 86_400_000, 10**30])
def test_every_call_ends(lasts: int) -> None:
    for given, said in ((lasts, lasts), (0, 1), (-lasts, 1)):
        answer = read(RESPONDER.build(Allow(DECISION_ID, ALICE, "infer", lasts=given), request_is_grpc=True))
        assert headers(answer.ok_response.headers)["x-envoy-upstream-stream-duration-ms"] == str(said)


@pytest.mark.parametrize(
    ("claim", "header"),
    [
        ("-", "%2D"),  # not nobody
        ("a,b", "a%2Cb"),
        ("a b", "a%20b"),
        ("100%", "100%25"),
        ("a\r\nx-user-roles: admin", "a%0D%0Ax-user-roles:%20admin"),
        ("\x00\x7f", "%00%7F"),
        ("zoë", "zo%C3%AB"),
        ("\ud800", "%ED%A0%80"),
        ("?", "%3F"),
        ('"\\', "%22%5C"),
        ("f:8a2c/alice@example.org", "f:8a2c/alice@example.org"),
    ],
)
def test_claims_are_percent_encoded(claim: str, header: str) -> None:
    sent = headers(_allow(Principal(claim, claim, claim, (claim, "b"), claim), model=claim).ok_response.headers)

    assert {sent["x-user-id"], sent["x-client-id"], sent["x-token-issuer"], sent["x-authz-model"]} == {header}
    assert sent["x-user-roles"] == f"{header},b"


def test_the_credential_and_what_only_envoy_may_say_are_removed() -> None:
    answer = _allow().ok_response

    assert list(answer.headers_to_remove) == [
        "authorization",
        "dpop",
        "x-envoy-auth-failure-mode-allowed",
        "x-envoy-auth-partial-body",
    ]
    # Envoy removes after it sets: a name in both would be gone.
    assert not set(answer.headers_to_remove) & headers(answer.headers).keys()


def test_the_console_gets_the_credential_and_no_identity_of_the_caller() -> None:
    allow = Allow(DECISION_ID, ANONYMOUS, "console", upstream=CONSOLE)
    answer = read(RESPONDER.build(allow, request_is_grpc=False)).ok_response
    assert list(answer.headers_to_remove) == ["x-envoy-auth-failure-mode-allowed", "x-envoy-auth-partial-body"]
    assert headers(answer.headers)["x-user-id"] == "-"
    for_a_model = read(RESPONDER.build(replace(allow, upstream=""), request_is_grpc=False)).ok_response
    assert "authorization" in for_a_model.headers_to_remove


def test_the_way_to_an_application_is_told_and_it_gets_no_credential() -> None:
    answer = read(RESPONDER.build(replace(_allow_of("shop"), upstream="shop"), request_is_grpc=False)).ok_response
    assert headers(answer.headers)["x-authz-upstream"] == "shop"
    assert "authorization" in answer.headers_to_remove
    keeping = replace(_allow_of("shop"), upstream="shop", keeps_token=True)
    assert list(read(RESPONDER.build(keeping, request_is_grpc=False)).ok_response.headers_to_remove)[:2] == [
        "dpop",
        "x-envoy-auth-failure-mode-allowed",
    ]
    to_a_model = read(RESPONDER.build(_allow_of("shop"), request_is_grpc=False)).ok_response
    assert "x-authz-upstream" not in headers(to_a_model.headers)


def _allow_of(route: str) -> Allow:
    return Allow(DECISION_ID, ANONYMOUS, route)


def test_the_caller_is_told_its_quotas_and_the_decision() -> None:
    assert headers(_allow().ok_response.response_headers_to_add) == {
        "x-decision-id": DECISION_ID,
        "ratelimit-policy": '"user";q=10;w=60, "user-path";q=100;w=60',
        "ratelimit": '"user";r=9;t=37, "user-path";r=0;t=5',
    }


def test_without_limits_there_are_no_quota_headers() -> None:
    assert headers(_allow(quotas=()).ok_response.response_headers_to_add) == {"x-decision-id": DECISION_ID}


@pytest.mark.parametrize("name", ["~" * 200, 'a"b\\c\r\nd', "é", ""])
def test_a_limit_of_any_name_is_a_valid_string_item(name: str) -> None:
    sent = headers(_allow(quotas=(Quota(name, 10, 60, 9, 37),)).ok_response.response_headers_to_add)
    item, values = sent["ratelimit"].split(";", 1)

    assert values == "r=9;t=37"
    assert sent["ratelimit-policy"] == f"{item};q=10;w=60"
    assert len(item) == len(name) + 2
    assert not set('"\\\r\né') & set(item[1:-1])


@pytest.mark.parametrize("length", [100, 119, 120, 126, 127, 128, 129, 16_000, 16_384])
def test_quotas_of_any_length_are_framed_right(length: int) -> None:
    """Lengths around the borders of protobuf's variable-length integers."""
    sent = headers(_allow(quotas=(Quota("n" * length, 10, 60, 9, 37),)).ok_response.response_headers_to_add)

    assert sent["ratelimit"] == f'"{"n" * length}";r=9;t=37'


def test_access_log_metadata() -> None:
    assert metadata(_allow_bytes()) == {
        "decision_id": DECISION_ID,
        "subject": "alice",
        "client": "web-app",
        "issuer": "https://kc.example/realms/ml",
        "token_id": "onrtac:1f65761e",
        "route": "infer",
        "model": "sentiment",
        "reason": "allowed",
        "code": "allowed",
        "policy": "0123456789abcdef",
    }


def test_each_answer_has_the_id_and_the_caller_of_its_own_decision() -> None:
    other = DECISION_ID.replace("c2", "d3")
    bob = Principal(subject="bob")
    for decision_id, principal in [(DECISION_ID, ALICE), (other, ALICE), (other, bob), (DECISION_ID, bob)]:
        message = _allow_bytes(principal, decision_id=decision_id)
        sent = headers(read(message).ok_response.headers)

        assert (sent["x-decision-id"], sent["x-user-id"]) == (decision_id, principal.subject)
        assert metadata(message)["decision_id"] == decision_id


@pytest.mark.parametrize("decision_id", ["", "short", DECISION_ID + "0"])
def test_a_decision_id_is_a_uuid(decision_id: str) -> None:
    """Another length would break the framing around it."""
    with pytest.raises(ValueError, match="UUID"):
        _allow_bytes(decision_id=decision_id)


def test_what_callers_are_not_told_models_are() -> None:
    quiet = Responder("tollgate", Responses(decision_header=False, ratelimit_headers=False, hints=False), "h")
    answer = read(quiet.build(Allow(DECISION_ID, ALICE, "infer", "sentiment", QUOTAS), request_is_grpc=False))

    assert headers(answer.ok_response.headers) == headers(_allow().ok_response.headers)
    assert not answer.ok_response.response_headers_to_add


def test_what_it_was_decided_without_is_for_the_access_log() -> None:
    allow = Allow(DECISION_ID, ALICE, "infer", "sentiment", QUOTAS)
    degraded = RESPONDER.build(replace(allow, degraded="redis"), request_is_grpc=False)

    assert metadata(degraded) == metadata(_allow_bytes()) | {"degraded": "redis"}
    assert read(degraded).ok_response == _allow().ok_response
