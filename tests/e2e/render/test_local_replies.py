"""What a caller reads when Envoy answers by itself: the same as from the authorizer."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator, Mapping

import grpc
import httpx
import pytest
from tritonclient.grpc import service_pb2

from ext_authz.policy.model import Experiment, Override
from ext_authz.policy.rights import EVERYONE
from ext_authz.render.endpoints import Timeouts
from tests.docs.bad_input import ROWS
from tests.e2e.render.world import HANGS, RENDERERS, World, running_world
from tests.e2e.server.raw import RawCall
from tests.unit.render.policies import EVERYDAY, of_kinds

INFER = "/v2/models/sentiment/infer"
CALL = "/inference.GRPCInferenceService/ModelInfer"
LOST = {"x-experiment": "lost"}
VARIANTS = Experiment(
    name="sentiment",
    model="sentiment",
    weights={"stable": 100, "lost": 0},
    salt="",
    override=Override(header="x-experiment", values={"lost": "lost"}, permission=EVERYONE),
)
BY_ENVOY = "the proxy refused the request: "
BOUNDS = Timeouts(request=0.5, rest_bytes=1 << 20, grpc_bytes=1 << 20)


@pytest.fixture(scope="module", params=RENDERERS)
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    policy = of_kinds(*EVERYDAY, experiments={"sentiment": VARIANTS})
    with running_world(request.param, policy, tmp_path_factory.mktemp("replies"), BOUNDS) as world:
        yield world


@pytest.mark.parametrize(
    ("path", "body", "headers", "status", "code", "detail"),
    [
        (INFER, 0, {HANGS: "1"}, 504, "model_server_timeout", "did not answer within 0.5s: send less"),
        (INFER, 0, LOST, 503, "model_server_unavailable", "does not answer, try again"),
        ("/v2/not-rendered", 0, {}, 404, "route_unknown", "not served here"),
    ],
)
def test_after_a_check_it_is_a_problem_with_the_decision(
    world: World, path: str, body: int, headers: Mapping[str, str], status: int, code: str, detail: str
) -> None:
    answer = httpx.post(world.url + path, content=b"x" * body, headers=headers)
    problem, decision_id = answer.json(), answer.headers["x-decision-id"]

    assert answer.status_code == problem["status"] == status
    assert answer.headers.get_list("content-type") == ["application/problem+json"]
    assert answer.headers["cache-control"] == "no-store"
    assert (problem["type"], problem["code"]) == (f"urn:tollgate:problem:{code}", code)
    assert detail in problem["detail"]
    assert problem["error"] == f"{problem['detail']} (decision {decision_id})"
    assert problem["decision_id"] == decision_id
    assert (
        answer.headers.get("retry-after", "") == str(problem.get("retry_after", "")) == ("1" if status == 503 else "")
    )


def test_who_takes_too_long_to_send_a_body_is_told(world: World) -> None:
    """As docs/bad-input.md says, with the limit of this world."""
    slow = {over: ROWS["a body that comes too slowly", over] for over in ("REST", "gRPC")}
    sentences = {over: row.sentence.replace("within 60s", "within 0.5s") for over, row in slow.items()}
    port = int(world.address.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as caller:
        caller.sendall(f"POST {INFER} HTTP/1.1\r\nhost: h\r\ncontent-length: 1000\r\n\r\nx".encode())
        answer = caller.makefile("rb").read().decode()
    assert answer.startswith("HTTP/1.1 408 ")
    assert slow["REST"].answer == "408 request_timeout"
    assert f'"detail":"{sentences["REST"]}"' in answer
    (decision_id,) = re.findall(r"^x-decision-id: (.*?)\r$", answer, re.MULTILINE)
    assert f"answered {world.usage_worker.outcome(decision_id).status}" == slow["REST"].ledger
    world.forget()
    late = RawCall(port, path=CALL).send(b"\0\0\0").answer()
    assert grpc.StatusCode[slow["gRPC"].answer].value[0] == late.grpc_status
    assert late.headers["grpc-message"] == sentences["gRPC"]
    # Nothing is decided about a message that is not there, so there is nothing to write down.
    assert (slow["gRPC"].ledger, world.authorizer.asked) == ("nothing", [])


@pytest.mark.parametrize("length", [(1 << 20) + 1, 10**18, 2**64])
def test_who_announces_too_much_is_not_checked(world: World, length: int) -> None:
    world.forget()
    with socket.create_connection(("127.0.0.1", int(world.address.rpartition(":")[2]))) as caller:
        caller.sendall(f"POST {INFER} HTTP/1.1\r\nhost: h\r\ncontent-length: {length}\r\n\r\n".encode())
        answer = caller.makefile("rb").read().decode()

    if length < 2**63:
        assert answer.startswith("HTTP/1.1 413 ")
        assert '"error":"the body is larger than 1048576 bytes;' in answer
    assert world.authorizer.asked == world.reached() == []


def test_who_sends_too_much_without_announcing_it_gets_the_same(world: World) -> None:
    world.forget()
    answer = httpx.post(world.url + INFER, content=iter([b"x" * 400_000] * 5))

    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    assert answer.json()["decision_id"] == answer.headers["x-decision-id"]
    assert world.reached() == []


def test_a_body_of_the_greatest_length_passes(world: World) -> None:
    assert httpx.post(world.url + INFER, content=b"x" * (1 << 20)).status_code == 200
    assert httpx.post(world.url + INFER, content=b"x" * ((1 << 20) + 1)).status_code == 413


@pytest.mark.parametrize(
    ("path", "size", "headers", "status", "text"),
    [
        (CALL, 0, {HANGS: "1"}, grpc.StatusCode.DEADLINE_EXCEEDED, "model_server_timeout: "),
        (CALL, 0, LOST, grpc.StatusCode.UNAVAILABLE, "model_server_unavailable: "),
        ("/acme.Ranker/Rank", 0, {}, grpc.StatusCode.UNIMPLEMENTED, "route_unknown: "),
        (
            CALL,
            3_000_000,
            {},
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "too_large: the message is larger than 1048576 ",
        ),
    ],
)
def test_over_grpc_it_is_a_status_with_a_message(
    world: World, path: str, size: int, headers: Mapping[str, str], status: grpc.StatusCode, text: str
) -> None:
    message = service_pb2.ModelInferRequest(model_name="sentiment", raw_input_contents=[bytes(size)])
    with grpc.insecure_channel(world.address) as channel, pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary(path)(message.SerializeToString(), timeout=5, metadata=tuple(headers.items()))
    call = refused.value
    assert isinstance(call, grpc.Call)
    trailers = {name: str(value) for name, value in call.trailing_metadata() or ()}

    assert call.code() is status
    assert str(call.details()).startswith(text)
    # The model's name in a message that is too large cannot be read, so nothing is decided.
    assert size or str(call.details()).endswith(f" (decision {trailers['x-decision-id']})")


def test_what_would_end_triton_does_not_reach_it(world: World) -> None:
    """docs/adr/0054-what-triton-cannot-take.md."""
    world.forget()
    answer = httpx.post(world.url + INFER, json={"outputs": [{"name": "label", "parameters": {"classification": 1}}]})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_inference_request")
    assert answer.json()["decision_id"] == answer.headers["x-decision-id"]
    message = service_pb2.ModelInferRequest(model_name="sentiment")
    message.outputs.add(name="label").parameters["classification"].int64_param = 1
    with grpc.insecure_channel(world.address) as channel, pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary(CALL)(message.SerializeToString(), timeout=5)
    call = refused.value
    assert isinstance(call, grpc.Call)
    assert call.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "asks for a classification" in str(call.details())
    assert world.reached() == []


@pytest.mark.parametrize(
    ("request_line", "headers", "status", "detail"),
    [
        (b"POST /v2/models/a%2finfer HTTP/1.1", b"", 400, f"{BY_ENVOY}path_normalization_failed"),
        (b"GET /v2 HTTP/1.1", b"x_user: 1\r\n", 400, f"{BY_ENVOY}http1.unexpected_underscore"),
        (
            b"GET /v2 HTTP/1.1",
            b"x: " + b"x" * 70_000 + b"\r\n",
            431,
            "the headers are larger than 60 KiB: send fewer, or a token with fewer roles",
        ),
        (b"nonsense", b"", 400, f"{BY_ENVOY}http1.codec_error"),
    ],
)
def test_what_is_no_request_is_a_problem_too(
    world: World, request_line: bytes, headers: bytes, status: int, detail: str
) -> None:
    with socket.create_connection(("127.0.0.1", int(world.address.rpartition(":")[2]))) as caller:
        caller.sendall(request_line + b"\r\nhost: h\r\n" + headers + b"\r\n")
        answer = caller.makefile("rb").read().decode()

    assert answer.startswith(f"HTTP/1.1 {status} ")
    assert "content-type: application/problem+json" in answer
    assert f'"error":"{detail}"' in answer
    assert f'"status":{status},' in answer
