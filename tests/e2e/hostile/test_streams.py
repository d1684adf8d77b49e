"""An allowed call is checked once, so it ends: with its token, or when the route says, whatever the caller asks for."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event

import grpc
import httpx
import pytest
from tritonclient.grpc import service_pb2

from tests import tokens
from tests.e2e.hostile.upstream import Pairs
from tests.e2e.hostile.world import World
from tests.services import wait_for

STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
NEVER = 30.0
"""Seconds. Without a bound of ours each of these calls would last longer."""


class Ended:
    """How one call ended: when, with which status, and after how much of an answer."""

    def __init__(self, began: float, due: float, status: object, answered: int) -> None:
        self.early = due - time.time()
        self.lasted = time.time() - began
        self.status = status
        self.answered = answered

    def ensure_on_time(self) -> None:
        """Not before its time (Envoy's clock ticks in milliseconds), and long before anything else would end it."""
        assert self.early < 0.1
        assert self.lasted < NEVER


def stream(port: int, token: str, due: float, metadata: Pairs) -> Ended:
    """By a gRPC client that keeps its own side open."""
    began, over, answers = time.time(), Event(), 0

    def requests() -> Iterator[bytes]:
        yield service_pb2.ModelInferRequest(model_name="sentiment").SerializeToString()
        over.wait(2 * NEVER)

    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        open_stream: grpc.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(STREAM)
        call = open_stream(requests(), metadata=(("authorization", f"Bearer {token}"), *metadata), timeout=NEVER)
        try:
            for _ in call:
                answers += 1
        except grpc.RpcError:
            return Ended(began, due, call.code(), answers)
        finally:
            over.set()
    return Ended(began, due, call.code(), answers)


def http(port: int, method: str, path: str, token: str, due: float) -> Ended:
    began, received = time.time(), 0
    headers = {"authorization": f"Bearer {token}"} if token else {}
    with (
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=NEVER) as client,
        client.stream(method, path, headers=headers, content=b"{}" if method == "POST" else None) as answer,
    ):
        try:
            for part in answer.iter_raw():
                received += len(part)
        except httpx.RemoteProtocolError as cut:
            return Ended(began, due, type(cut), received)
    return Ended(began, due, answer.status_code, received)


@pytest.fixture(scope="module")
def ended(running: World) -> dict[str, Ended]:
    """All calls at once: each takes some seconds."""
    port = running.port
    due = int(time.time()) + 4
    # A stream needs the right on all models.
    roles = {tokens.AUDIENCE: {"roles": ["infer", "hr"]}}
    token, long = running.token(exp=due, resource_access=roles), running.token(resource_access=roles)
    bound = "x-envoy-upstream-stream-duration-ms"
    calls: dict[str, Callable[[], Ended]] = {
        "a stream": lambda: stream(port, token, due, []),
        "one that asks for no end": lambda: stream(port, token, due, [(bound, "0")]),
        "one that asks for a day": lambda: stream(port, token, due, [(bound, "86400000"), (bound, "0")]),
        "one with a long token": lambda: stream(port, long, time.time() + 2, [("x-short", "1")]),
        "events": lambda: http(port, "POST", "/v2/models/sentiment/generate_stream", token, due),
        "public events": lambda: http(port, "POST", "/docs/generate_stream", "", time.time() + 2),
        "silence": lambda: http(port, "GET", "/files/silence", token, due),
    }
    with ThreadPoolExecutor(len(calls)) as callers:
        running_calls: dict[str, Future[Ended]] = {name: callers.submit(call) for name, call in calls.items()}
        found = {name: call.result() for name, call in running_calls.items()}
    wait_for(lambda: all(reached.is_over for reached in running.upstream.reached))
    assert not any(reached.all(bound) for reached in running.upstream.reached)
    return found


@pytest.mark.parametrize(
    "name", ["a stream", "one that asks for no end", "one that asks for a day", "one with a long token"]
)
def test_a_stream_of_grpc_ends_on_time(ended: dict[str, Ended], name: str) -> None:
    ended[name].ensure_on_time()
    assert ended[name].answered
    assert ended[name].status is grpc.StatusCode.INTERNAL, "a reset: the client begins again, with a new token"


@pytest.mark.parametrize("name", ["events", "public events"])
def test_so_does_a_stream_of_events(ended: dict[str, Ended], name: str) -> None:
    ended[name].ensure_on_time()
    assert ended[name].answered
    assert ended[name].status is httpx.RemoteProtocolError, "cut off, so that nobody takes it for whole"


def test_a_call_that_is_not_answered_in_its_time_gets_504(ended: dict[str, Ended]) -> None:
    ended["silence"].ensure_on_time()
    assert ended["silence"].status == httpx.codes.GATEWAY_TIMEOUT
