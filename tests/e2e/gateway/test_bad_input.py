"""What a hostile caller sends through the real Envoy: a clear 4xx each time, never a 5xx, a hang, or the model."""

from __future__ import annotations

import http.client
from collections.abc import Sequence
from urllib.parse import urlsplit

import httpx
import pytest

from devstack.stack.stack import Stack
from tests.e2e.gateway.caller import PATIENCE, Caller

Headers = Sequence[tuple[str, str]]

PATHS = [
    "//v2/models/sentiment/ready",
    "/v2//models/sentiment/ready",
    "/v2/models/sentiment/ready/",
    "/v2/models/sentiment/ready;a=b",
    "/v2/models/..;/sentiment/ready",
    "/v2%2fmodels/sentiment/ready",
    "/v2/models%2Fsentiment/ready",
    "/v2/models%252fsentiment/ready",
    "/v2/models/%73entiment%20/ready",
    "/v2\\models\\sentiment\\ready\\x",
    "/v2/models/sentiment/ready%00",
    "/V2/models/sentiment/ready",
    "/v2/models/SENTIMENT/ready",
    "/v2/models/sentiment/ready#x",
    "/v2/models/sentiment/versions/01/infer",
    "/v2/repository/index",
    "/v2/repository/models/sentiment/unload",
    "/v2/systemsharedmemory/status",
    "/v2/trace/setting",
    "/v2/logging",
    "/v2/models/" + "a" * 2000,
    "/nothing",
]


def send(stack: Stack, method: str, target: str, headers: Headers = ()) -> http.client.HTTPResponse:
    """Exactly these bytes: no client library tidies up the path or joins the headers."""
    where = urlsplit(stack.addresses.envoy)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=PATIENCE)
    connection.putrequest(method, target, skip_accept_encoding=True)
    for name, value in headers:
        connection.putheader(name, value)
    try:
        connection.endheaders()
        answer = connection.getresponse()
        answer.read()
    finally:
        connection.close()
    return answer


@pytest.fixture
def token(caller: Caller) -> str:
    return caller.token()


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path[:45])
def test_a_path_that_no_route_spells_this_way_is_refused(stack: Stack, token: str, path: str) -> None:
    answer = send(stack, "GET", path, [("authorization", f"Bearer {token}")])
    assert 400 <= answer.status < 500


def test_the_straight_path_is_served(stack: Stack, token: str) -> None:
    answer = send(stack, "GET", "/v2/models/sentiment/ready", [("authorization", f"Bearer {token}")])
    assert answer.status == 200


@pytest.mark.parametrize("method", ["CONNECT", "TRACE", "PUT", "DELETE", "PATCH"])
def test_a_method_that_no_route_takes_is_refused(stack: Stack, token: str, method: str) -> None:
    target = "models.example:443" if method == "CONNECT" else "/v2/models/sentiment/infer"
    assert 400 <= send(stack, method, target, [("authorization", f"Bearer {token}")]).status < 500


def test_the_asterisk_form_is_refused(stack: Stack, token: str) -> None:
    assert 400 <= send(stack, "OPTIONS", "*", [("authorization", f"Bearer {token}")]).status < 500


def test_two_credentials_are_refused(stack: Stack, token: str) -> None:
    one = ("authorization", f"Bearer {token}")
    answer = send(stack, "GET", "/v2/models/sentiment/ready", [one, one])
    assert answer.status == 400
    assert 'error="invalid_request"' in (answer.headers["www-authenticate"] or "")


@pytest.mark.parametrize(
    ("value", "status"),
    [
        ("bearer {}", 200),
        ("BEARER {}", 200),
        ("Bearer  {}", 400),
        ("Bearer", 400),
        ("Bearer {} ", 200),  # RFC 9110 section 5.5: the space around a value is not part of it
        ("Bearer {}, Bearer {}", 400),
        ("Basic dXNlcjpwYXNz", 401),
        ("Bearer \u00e9\u00e9", 401),
        ("Bearer {}=", 401),
        ("Bearer {}.x", 401),
    ],
)
def test_how_a_credential_may_be_spelt(stack: Stack, token: str, value: str, status: int) -> None:
    headers = [("authorization", value.replace("{}", token))]
    assert send(stack, "GET", "/v2/models/sentiment/ready", headers).status == status


def test_a_token_in_the_query_is_refused(stack: Stack, token: str) -> None:
    headers = [("authorization", f"Bearer {token}")]
    assert send(stack, "GET", "/v2/models/sentiment/ready?access_token=x", headers).status == 400


@pytest.mark.parametrize("size", [9_000, 60_000, 2_000_000])
def test_a_huge_header_is_refused(stack: Stack, size: int) -> None:
    try:
        status = send(stack, "GET", "/v2/models/sentiment/ready", [("authorization", "Bearer " + "a" * size)]).status
    except (BrokenPipeError, ConnectionResetError):
        return  # Envoy stopped reading: as clear as a refusal gets while the caller still writes
    assert 400 <= status < 500


def test_the_wrong_protocol_for_a_path_is_refused(stack: Stack, token: str) -> None:
    credential = ("authorization", f"Bearer {token}")
    grpc_on_rest = send(stack, "POST", "/v2/models/sentiment/infer", [credential, ("content-type", "application/grpc")])
    assert grpc_on_rest.status == 200, "gRPC has its status in a header"
    assert grpc_on_rest.headers["grpc-status"] == "3"
    rest_on_grpc = send(stack, "POST", "/inference.GRPCInferenceService/ModelInfer", [credential])
    assert 400 <= rest_on_grpc.status < 500


def test_a_refusal_has_its_reason_and_the_decision_id(stack: Stack) -> None:
    answer = send(stack, "GET", "/v2/models/sentiment/ready")
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-decision-id"]
    assert answer.headers["cache-control"] == "no-store"


def test_an_empty_body_is_refused_before_it_costs_quota(stack: Stack, token: str) -> None:
    bearer = ("authorization", f"Bearer {token}")
    before = _left(stack, bearer)
    empty = send(stack, "POST", "/v2/models/sentiment/infer", [bearer, ("content-length", "0")])
    assert (empty.status, empty.headers["content-type"]) == (400, "application/problem+json")
    assert _left(stack, bearer) == before


def _left(stack: Stack, bearer: tuple[str, str]) -> list[int]:
    url = f"{stack.addresses.envoy}/.tollgate/quota"
    limits = httpx.get(url, headers=dict([bearer]), timeout=PATIENCE).json()["limits"]
    return [limit["remaining"] for limit in limits]
