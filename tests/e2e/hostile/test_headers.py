"""What reaches a model: what the caller said about his own business, and what the authorizer says; no more."""

from __future__ import annotations

import httpx
import pytest

from ext_authz.render.headers import MISLEADING, RESERVED, UPSTREAM
from tests.e2e.hostile.upstream import Pairs, Reached
from tests.e2e.hostile.world import World
from tests.e2e.server.raw import RawCall, frame

INFER = "/inference.GRPCInferenceService/ModelInfer"
OF_ENVOY = {"x-forwarded-for", "x-forwarded-proto", "x-request-id"}
INTERNAL = (
    *("x-envoy-internal", "x-envoy-external-address", "x-envoy-attempt-count", "x-envoy-original-path"),
    *("x-envoy-original-host", "x-envoy-expected-rq-timeout-ms", "x-envoy-upstream-rq-timeout-ms"),
    *("x-envoy-upstream-rq-per-try-timeout-ms", "x-envoy-upstream-stream-duration-ms", "x-envoy-retry-on"),
    *("x-envoy-max-retries", "x-envoy-decorator-operation", "x-envoy-peer-metadata", "x-envoy-force-trace"),
    *("x-envoy-auth-partial-body", "x-envoy-auth-failure-mode-allowed", "x-envoy-hedge-on-per-try-timeout"),
    *("x-envoy-upstream-alt-stat-name", "x-envoy-ip-tags", "x-envoy-overloaded"),
)
OF_A_CALL = {*RESERVED} - {UPSTREAM}
"""What the authorizer says of each call of a model; UPSTREAM is of calls of an application."""
FORGED = [(name, "forged") for name in (*RESERVED, *MISLEADING, *INTERNAL)]
"""Each twice in what follows, and in two spellings."""

MESSAGE = frame(b"\x0a\x09sentiment")


def rest(world: World, more: Pairs = []) -> Reached:  # noqa: B006 - only read
    headers = [("authorization", f"Bearer {world.token()}"), *more]
    httpx.post(f"http://127.0.0.1:{world.port}/v2/models/sentiment/infer", json={}, headers=headers).raise_for_status()
    return world.upstream.reached[-1]


def rpc(world: World, more: Pairs = [], trailers: Pairs = []) -> Reached:  # noqa: B006 - only read
    call = RawCall(world.port, path=INFER, more=[("authorization", f"Bearer {world.token()}"), *more])
    answer = (call.send(MESSAGE).end_with(trailers) if trailers else call.send(MESSAGE, end=True)).answer()
    assert (answer.status, answer.grpc_status) == (200, 0)
    return world.upstream.reached[-1]


def extra(reached: Reached) -> set[str]:
    return {name for name, _ in reached.headers if name.startswith("x-")}


@pytest.mark.parametrize("send", [rest, rpc])
def test_of_all_that_begins_with_x_only_these_reach_a_model(world: World, send: object) -> None:
    assert callable(send)
    assert extra(send(world)) == OF_ENVOY | OF_A_CALL


@pytest.mark.parametrize("send", [rest, rpc])
def test_headers_of_the_authorizer_and_envoy_cannot_be_forged(world: World, send: object) -> None:
    assert callable(send)
    twice = [*FORGED, *FORGED]
    reached = send(world, twice if send is rpc else [*FORGED, *((name.title(), value) for name, value in FORGED)])
    assert extra(reached) == OF_ENVOY | OF_A_CALL
    assert [pair for pair in reached.headers if "forged" in pair[1]] == []
    assert all(len(reached.all(name)) == 1 for name in OF_A_CALL)


def test_headers_for_the_model_arrive(world: World) -> None:
    assert rest(world, [("x-mine", "1"), ("x-mine", "2")]).all("x-mine") == ["1", "2"]


@pytest.mark.parametrize("name", ["x-user-id", "x-envoy-internal", "authorization", "grpc-timeout", "anything"])
def test_trailers_of_a_request_are_removed(world: World, name: str) -> None:
    reached = rpc(world, trailers=[(name, "forged"), (name, "forged")])
    assert reached.is_over
    assert (reached.trailers, reached.body) == ([], MESSAGE)
    assert extra(reached) == OF_ENVOY | OF_A_CALL


def test_neither_do_those_of_a_chunked_body(world: World) -> None:
    chunks = b"2\r\n{}\r\n0\r\nx-user-id: forged\r\nauthorization: forged\r\n\r\n"
    head = f"POST /files/a HTTP/1.1\r\nhost: h\r\nauthorization: Bearer {world.token()}\r\ntrailer: x-user-id\r\n"
    assert world.say(f"{head}transfer-encoding: chunked\r\n\r\n".encode() + chunks).startswith(b"HTTP/1.1 200 ")
    (reached,) = world.upstream.reached
    assert (reached.trailers, reached.body, reached.all("trailer")) == ([], b"{}", [])
    assert reached.all("x-user-id") != ["forged"]


def test_nor_those_of_http_2_before_a_rest_upstream(world: World) -> None:
    call = RawCall(
        world.port, path="/files/a", content_type="text/plain", more=[("authorization", f"Bearer {world.token()}")]
    )
    assert call.send(b"{}").end_with([("x-user-id", "forged")]).answer().status == 200
    (reached,) = world.upstream.reached
    assert (reached.trailers, reached.body) == ([], b"{}")
