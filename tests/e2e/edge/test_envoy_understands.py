"""What a real Envoy does with our answers, and what it asks."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from urllib.parse import unquote

import grpc
import httpx
import pytest

from ext_authz.decision import ANONYMOUS, Allow, Decision, Deny, Principal, Quota, Reason
from ext_authz.edge.request import parse
from ext_authz.edge.response import Responder
from ext_authz.gen.tollgate.envoy.v3.external_auth_pb2 import CheckResponse
from ext_authz.policy.model import Responses
from tests.e2e.edge.mesh import LISTENERS, Mesh
from tests.messages import ROW, model, version
from tests.services import wait_for

DECISION_ID = "c2a5a3a1-3f3e-4b7a-9f6e-0b7b6a0f9d10"
QUOTAS = (Quota("user", 10, 60, 9, 37), Quota("user-path", 100, 60, 0, 5))
ALICE = Principal("https://kc.example/realms/ml", "alice", "web-app", ("infer", "admin"), "onrtac:1")
IDENTITY = (
    "x-user-id",
    "x-client-id",
    "x-user-roles",
    "x-token-issuer",
    "x-authz-model",
    "x-authz-version",
    "x-decision-id",
    "x-model-variant",
)
RESPONDER = Responder("triton", Responses("urn:tollgate:problem:"), "policy-hash")

every_form = pytest.mark.parametrize("listener", ["map", "header_map"])
every_listener = pytest.mark.parametrize("listener", LISTENERS)


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    with httpx.Client(trust_env=False) as client:
        yield client


def _decide(mesh: Mesh, decision: Decision) -> None:
    """As the authorizer would: HTTP or gRPC, by what was asked."""
    mesh.authorizer.answer = lambda message: RESPONDER.build(decision, parse(message).is_grpc)


def _deny(reason: Reason, **fields: object) -> Deny:
    return Deny(DECISION_ID, reason, "some_code", "some detail", **fields)  # type: ignore[arg-type]


def _allow(principal: Principal = ALICE, model: str = "sentiment") -> Allow:
    return Allow(DECISION_ID, principal, "infer", model, QUOTAS)


def _get(client: httpx.Client, mesh: Mesh, *headers: tuple[str, str], listener: str = "map") -> httpx.Response:
    return client.get(f"http://{mesh.address(listener)}/v2/models/sentiment?x=1", headers=list(headers))


def _upstream(response: httpx.Response) -> list[tuple[str, str]]:
    assert response.status_code == 200
    return [(name, value) for name, value in response.json()]


# What Envoy makes of an allow.


@every_listener
def test_identity_headers_reach_the_model(mesh: Mesh, http: httpx.Client, listener: str) -> None:
    _decide(mesh, _allow())

    upstream = dict(_upstream(_get(http, mesh, listener=listener)))

    assert {name: upstream[name] for name in IDENTITY} == {
        "x-user-id": "alice",
        "x-client-id": "web-app",
        "x-user-roles": "infer,admin",
        "x-token-issuer": "https://kc.example/realms/ml",
        "x-authz-model": "sentiment",
        "x-authz-version": "*",
        "x-model-variant": "-",
        "x-decision-id": DECISION_ID,
    }


@every_listener
@pytest.mark.parametrize("principal", [ALICE, ANONYMOUS], ids=["alice", "anonymous"])
@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_callers_identity_headers_never_survive(
    mesh: Mesh, http: httpx.Client, listener: str, principal: Principal, times: int
) -> None:
    _decide(mesh, _allow(principal, ""))
    forged = [(name, f"forged-{number}") for name in IDENTITY for number in range(times)]
    forged += [(name.title(), "forged-title") for name in IDENTITY]

    upstream = _upstream(_get(http, mesh, *forged, listener=listener))

    assert not [value for _, value in upstream if "forged" in value]
    assert sorted(name for name, _ in upstream if name in IDENTITY) == sorted(IDENTITY)


@every_listener
def test_the_model_sees_no_credential(mesh: Mesh, http: httpx.Client, listener: str) -> None:
    _decide(mesh, _allow())
    sent = [
        ("authorization", "Bearer secret"),
        ("x-envoy-auth-failure-mode-allowed", "true"),
        ("x-envoy-auth-partial-body", "false"),
    ]

    upstream = dict(_upstream(_get(http, mesh, *sent, listener=listener)))

    assert not upstream.keys() & {name for name, _ in sent}


def test_hostile_claims_stay_in_their_header(mesh: Mesh, http: httpx.Client) -> None:
    claim = 'a\r\nx-user-roles: root\x00\x7f,"é\ud800%'
    _decide(mesh, _allow(Principal(claim, claim, claim, (claim, "b"), claim), claim))

    upstream = dict(_upstream(_get(http, mesh)))

    assert unquote(upstream["x-user-id"], errors="surrogatepass") == claim
    assert [unquote(role, errors="surrogatepass") for role in upstream["x-user-roles"].split(",")] == [claim, "b"]


def test_the_caller_gets_its_quota_whatever_the_model_answers(mesh: Mesh, http: httpx.Client) -> None:
    _decide(mesh, _allow())

    headers = _get(http, mesh).headers

    assert headers.get_list("ratelimit") == ['"user";r=9;t=37, "user-path";r=0;t=5']
    assert headers.get_list("ratelimit-policy") == ['"user";q=10;w=60, "user-path";q=100;w=60']
    assert headers.get_list("x-decision-id") == [DECISION_ID]


def test_the_access_log_has_the_decision(mesh: Mesh, http: httpx.Client) -> None:
    other = DECISION_ID.replace("c2", "d3")
    for decision in (_allow(), Deny(other, Reason.REVOKED, "session_revoked", "no", principal=ALICE)):
        _decide(mesh, decision)
        _get(http, mesh)
    wait_for(lambda: mesh.access_log.exists() and other in mesh.access_log.read_text())

    logged = [json.loads(line) for line in mesh.access_log.read_text().splitlines()]

    allowed = {"decision_id": DECISION_ID, "subject": "alice", "reason": "allowed", "code": "allowed"}
    refused = {"decision_id": other, "subject": "alice", "reason": "revoked", "code": "session_revoked"}
    assert allowed | {"policy": "policy-hash"} in logged
    assert refused | {"policy": "policy-hash"} in logged


def test_an_empty_answer_would_allow(mesh: Mesh, http: httpx.Client) -> None:
    """Why nothing but Responder.build may make an answer: to Envoy this is "yes", with the caller's own headers."""
    mesh.authorizer.answer = lambda _: CheckResponse().SerializeToString()

    assert ("x-user-id", "forged") in _upstream(_get(http, mesh, ("x-user-id", "forged")))


# What an HTTP caller sees of a refusal.


@pytest.mark.parametrize(
    ("reason", "status"),
    [
        (Reason.BAD_REQUEST, 400),
        (Reason.NO_ROUTE, 404),
        (Reason.METHOD_NOT_ALLOWED, 405),
        (Reason.NO_CREDENTIAL, 401),
        (Reason.INVALID_REQUEST, 400),
        (Reason.INVALID_CREDENTIAL, 401),
        (Reason.REVOKED, 401),
        (Reason.FORBIDDEN, 403),
        (Reason.OVER_LIMIT, 429),
        (Reason.UNAVAILABLE, 503),
        (Reason.INTERNAL, 500),
    ],
)
def test_an_http_caller_gets_a_problem(mesh: Mesh, http: httpx.Client, reason: Reason, status: int) -> None:
    _decide(mesh, _deny(reason))

    response = _get(http, mesh)

    assert response.status_code == response.json()["status"] == status
    assert response.headers.get_list("content-type") == ["application/problem+json"]
    assert response.headers.get_list("x-decision-id") == [DECISION_ID] == [response.json()["decision_id"]]
    assert response.headers["cache-control"] == "no-store"
    assert ("www-authenticate" in response.headers) >= (status == 401)
    assert "grpc-status" not in response.headers


def test_an_http_caller_over_its_limit(mesh: Mesh, http: httpx.Client) -> None:
    _decide(mesh, _deny(Reason.OVER_LIMIT, quotas=QUOTAS, retry_after=37))

    response = _get(http, mesh)

    assert response.headers["retry-after"] == "37"
    assert response.headers["ratelimit"] == '"user";r=9;t=37, "user-path";r=0;t=5'
    assert response.headers["ratelimit-policy"] == '"user";q=10;w=60, "user-path";q=100;w=60'


def test_challenges_arrive_whole(mesh: Mesh, http: httpx.Client) -> None:
    _decide(mesh, _deny(Reason.FORBIDDEN, scope="infer"))

    assert _get(http, mesh).headers["www-authenticate"] == (
        'Bearer realm="triton", error="insufficient_scope", error_description="some detail", scope="infer"'
    )


def test_head_has_headers_and_no_body(mesh: Mesh, http: httpx.Client) -> None:
    _decide(mesh, _deny(Reason.NO_CREDENTIAL))

    response = http.head(f"http://{mesh.address()}/v2")

    assert (response.status_code, response.content) == (401, b"")
    assert response.headers["www-authenticate"] == 'Bearer realm="triton"'


@pytest.mark.parametrize("reason", [Reason.INTERNAL, Reason.FORBIDDEN, Reason.OVER_LIMIT])
def test_a_refusal_holds_even_where_the_mesh_fails_open(mesh: Mesh, http: httpx.Client, reason: Reason) -> None:
    _decide(mesh, _deny(reason))

    assert _get(http, mesh, listener="fails_open").status_code >= 400


def test_no_verdict_is_the_only_answer_that_a_mesh_may_let_pass(mesh: Mesh, http: httpx.Client) -> None:
    _decide(mesh, _deny(Reason.UNAVAILABLE))

    assert _get(http, mesh, listener="fails_open").status_code == 200
    assert _get(http, mesh).headers["retry-after"] == "1"


def test_hostile_details_inject_nothing(mesh: Mesh, http: httpx.Client) -> None:
    hostile = 'x\r\nset-cookie: a=b\r\n\r\n<script>"\\\x00é\ud800'
    _decide(mesh, Deny(DECISION_ID, Reason.FORBIDDEN, hostile, hostile, scope=hostile))

    response = _get(http, mesh)

    assert response.status_code == response.json()["status"] == 403
    assert "set-cookie" not in response.headers


# What a gRPC caller sees of a refusal.


def _infer(mesh: Mesh, message: bytes = b"") -> grpc.RpcError:
    with grpc.insecure_channel(mesh.address(), options=[("grpc.enable_http_proxy", 0)]) as channel:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer"
        )
        with pytest.raises(grpc.RpcError) as refused:
            call(message, timeout=10)
    return refused.value


def _trailers(refused: grpc.RpcError) -> dict[str, str]:
    return {datum.key: str(datum.value) for datum in refused.trailing_metadata()}


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        (Reason.BAD_REQUEST, grpc.StatusCode.INVALID_ARGUMENT),
        (Reason.NO_ROUTE, grpc.StatusCode.UNIMPLEMENTED),
        (Reason.METHOD_NOT_ALLOWED, grpc.StatusCode.UNIMPLEMENTED),
        (Reason.NO_CREDENTIAL, grpc.StatusCode.UNAUTHENTICATED),
        (Reason.INVALID_REQUEST, grpc.StatusCode.INVALID_ARGUMENT),
        (Reason.INVALID_CREDENTIAL, grpc.StatusCode.UNAUTHENTICATED),
        (Reason.REVOKED, grpc.StatusCode.UNAUTHENTICATED),
        (Reason.FORBIDDEN, grpc.StatusCode.PERMISSION_DENIED),
        (Reason.OVER_LIMIT, grpc.StatusCode.RESOURCE_EXHAUSTED),
        (Reason.UNAVAILABLE, grpc.StatusCode.UNAVAILABLE),
        (Reason.INTERNAL, grpc.StatusCode.INTERNAL),
    ],
)
def test_a_grpc_caller_gets_its_own_status(mesh: Mesh, reason: Reason, code: grpc.StatusCode) -> None:
    _decide(mesh, _deny(reason))

    refused = _infer(mesh)

    assert refused.code() is code
    assert _trailers(refused)["x-decision-id"] == DECISION_ID
    assert "{" not in str(refused.details())


def test_a_grpc_caller_over_its_limit_is_pushed_back_and_not_told_unavailable(mesh: Mesh) -> None:
    _decide(mesh, _deny(Reason.OVER_LIMIT, quotas=QUOTAS, retry_after=37))

    refused = _infer(mesh)

    assert refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert refused.details() == f"some_code: some detail (decision {DECISION_ID})"
    trailers = _trailers(refused)
    assert (trailers["grpc-retry-pushback-ms"], trailers["retry-after"]) == ("37000", "37")
    assert trailers["ratelimit"] == '"user";r=9;t=37, "user-path";r=0;t=5'


# What Envoy asks.


@every_form
def test_envoy_asks_what_we_read(mesh: Mesh, http: httpx.Client, listener: str) -> None:
    _decide(mesh, _allow())

    _get(http, mesh, ("authorization", "Bearer t"), ("content-type", "application/json"), listener=listener)

    request = parse(mesh.authorizer.asked[-1])
    assert (request.method, request.path, request.query) == ("GET", "/v2/models/sentiment", "x=1")
    assert (request.host, request.source) == (mesh.address(listener), "127.0.0.1")
    assert (request.authorization, request.content_type) == (("Bearer t",), "application/json")


@every_form
def test_two_authorization_headers_arrive_as_two(mesh: Mesh, http: httpx.Client, listener: str) -> None:
    _decide(mesh, _deny(Reason.INVALID_REQUEST))

    _get(http, mesh, ("authorization", "Bearer good"), ("authorization", "Bearer evil"), listener=listener)

    assert parse(mesh.authorizer.asked[-1]).authorization == ("Bearer good", "Bearer evil")


@every_form
def test_bytes_that_are_no_text_do_not_break_the_check(mesh: Mesh, listener: str) -> None:
    _decide(mesh, _deny(Reason.INVALID_CREDENTIAL))
    with socket.create_connection(("127.0.0.1", mesh.ports[listener])) as caller:
        caller.sendall(b"GET /v2 HTTP/1.1\r\nhost: h\r\nauthorization: Bearer \xff\xfe\r\nconnection: close\r\n\r\n")
        assert caller.recv(65536).startswith(b"HTTP/1.1 401 ")

    assert parse(mesh.authorizer.asked[-1]).authorization[0].startswith("Bearer ")


@pytest.mark.parametrize(
    ("message", "models", "versions"),
    [
        (model(b"sentiment") + version(b"2") + ROW, ("sentiment",), ("2",)),
        (model(b"sentiment") + ROW, ("sentiment",), ()),
        (model(b"sentiment") + version(b"") + ROW, ("sentiment",), ("",)),
        (ROW + model(b"pl\xff"), ("?",), ()),
        (version(b"2") + ROW, (), ("2",)),
        (model(b"mine") + ROW + model(b"theirs"), (), ()),
        (b"", (), ()),
    ],
    ids=["both", "no version", "the newest version", "no UTF-8", "no model", "two models", "nothing"],
)
def test_the_model_of_a_message_is_read(
    mesh: Mesh, message: bytes, models: tuple[str, ...], versions: tuple[str, ...]
) -> None:
    _decide(mesh, _deny(Reason.FORBIDDEN))

    _infer(mesh, message)

    request = parse(mesh.authorizer.asked[-1])
    assert request.is_grpc
    assert (request.models, request.versions) == (models, versions)
