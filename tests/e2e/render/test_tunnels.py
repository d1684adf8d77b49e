"""Tunnels are refused, streams are not cut, and a refusal for a limit arrives whole."""

from __future__ import annotations

import socket
import time
import uuid
from collections.abc import Iterator
from queue import SimpleQueue

import grpc
import httpx
import pytest
from tritonclient.grpc import service_pb2

from ext_authz.decision import Deny, Reason
from ext_authz.render.endpoints import LOOPBACK, Timeouts
from tests.e2e.render.test_rendered import INFER, rpc_error
from tests.e2e.render.world import RENDERERS, World, running_world
from tests.unit.render.policies import EVERYDAY, of_kinds

STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
BOUNDS = Timeouts(request=0.5)


@pytest.fixture(scope="module", params=RENDERERS)
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with running_world(request.param, of_kinds(*EVERYDAY), tmp_path_factory.mktemp("tunnels"), BOUNDS) as world:
        yield world


@pytest.mark.parametrize(
    "request_line",
    [
        "CONNECT models.example:443 HTTP/1.1\r\n",
        f"POST {INFER} HTTP/1.1\r\nupgrade: websocket\r\nconnection: upgrade\r\n",
        "GET /v2 HTTP/1.1\r\nupgrade: websocket\r\nconnection: upgrade\r\n",
    ],
)
def test_a_tunnel_is_answered_at_once_and_reaches_nobody(world: World, request_line: str) -> None:
    with socket.create_connection((LOOPBACK, world.port), timeout=10) as caller:
        caller.sendall(f"{request_line}host: models.example:443\r\nauthorization: Bearer alice\r\n\r\n".encode())
        status = int(caller.recv(65_536).split(b" ", 2)[1])
    assert 400 <= status < 500
    assert status != 408, "it waited for an end that does not come"
    assert world.reached() == []


def test_a_stream_outlives_the_time_of_a_request(world: World) -> None:
    """It has a limit between two messages only."""
    messages: SimpleQueue[service_pb2.ModelInferRequest | None] = SimpleQueue()
    with grpc.insecure_channel(world.address) as channel:
        stream: grpc.StreamStreamMultiCallable[service_pb2.ModelInferRequest, bytes] = channel.stream_stream(
            STREAM, request_serializer=service_pb2.ModelInferRequest.SerializeToString
        )
        answers = stream(iter(messages.get, None), timeout=10)
        until = time.monotonic() + 3 * BOUNDS.request
        while time.monotonic() < until:
            messages.put(service_pb2.ModelInferRequest(model_name="sentiment"))
            assert next(answers) == b"stable"
        messages.put(None)
        assert list(answers) == []
    assert len(world.authorizer.asked) == 1


def test_a_refusal_for_a_limit_arrives_with_the_time_to_wait(world: World) -> None:
    refusal = Deny(str(uuid.uuid4()), Reason.OVER_LIMIT, "over_limit", "20 calls a minute", retry_after=7)
    world.authorizer.fails = refusal
    answer = httpx.post(world.url + INFER, json={})
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "7")
    assert answer.json()["decision_id"] == answer.headers["x-decision-id"] == refusal.decision_id
    assert rpc_error(world).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert world.reached() == []
