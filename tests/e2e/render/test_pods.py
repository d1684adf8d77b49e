"""Which pod of a variant serves a user of a mesh: one and the same, until it has too many calls or is dead."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import httpx
import pytest
from tritonclient.grpc import service_pb2

from ext_authz.render.endpoints import LOOPBACK
from tests.e2e.render.test_rendered import INFER, post
from tests.e2e.render.world import HANGS, MESHES, Model, World, running_world
from tests.services import wait_for
from tests.unit.render.policies import CANARY, EVERYDAY, of_kinds

POLICY = of_kinds(*EVERYDAY, experiments={"sentiment": CANARY})
BOTH = {"stable", "second"}

pytestmark = pytest.mark.mesh
Call = Callable[[str], str]


@pytest.fixture(scope="module", params=MESHES)
def renderer(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def second() -> Model:
    return Model("second")


@pytest.fixture(scope="module")
def world(renderer: str, second: Model, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with running_world(renderer, POLICY, tmp_path_factory.mktemp("pods"), further={"stable": second}) as world:
        yield world


def users(world: World) -> list[str]:
    """Of the variant with two pods."""
    found = [f"user-{number}" for number in range(40)]
    return [user for user in found if world.authorizer.variant(user) == "stable"][:20]


def pod(call: Call, user: str) -> str:
    """Which pod serves all calls of the user, one after the other: else calls in flight would count, too."""
    (found,) = {call(user) for _ in range(20)}
    return found


def test_a_user_stays_with_one_pod_whatever_headers_a_caller_sends(world: World, caller: httpx.Client) -> None:
    pods = {user: pod(lambda user: post(caller, INFER, user)[0], user) for user in users(world)}
    assert set(pods.values()) == BOTH
    for user, expected in pods.items():
        for forged in ("", "alice", *pods):
            assert post(caller, INFER, user, x_user_id=forged)[0] == expected


def test_a_user_of_grpc_too(world: World) -> None:
    with grpc.insecure_channel(world.address) as channel:
        infer: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer"
        )

        def call(user: str) -> str:
            message = service_pb2.ModelInferRequest(model_name="sentiment").SerializeToString()
            return infer(message, metadata=(("authorization", f"Bearer {user}"),)).decode()

        assert {pod(call, user) for user in users(world)} == BOTH


def test_calls_without_a_user_are_spread_even_with_a_forged_one(world: World, caller: httpx.Client) -> None:
    world.authorizer.is_silent = True
    try:
        for forged in ({}, {"x_user_id": "alice"}):
            assert {post(caller, INFER, "anyone", **forged)[0] for _ in range(40)} == BOTH
    finally:
        world.forget()


def test_a_heavy_user_does_not_saturate_one_pod(world: World, second: Model) -> None:
    pods = (world.stable.reached, second.reached)
    for reached in pods:
        reached.clear()
    user = users(world)[0]
    request = f"POST {INFER} HTTP/1.1\r\nhost: h\r\nauthorization: Bearer {user}\r\n{HANGS}: yes\r\n"
    with ExitStack() as open_calls:
        for number in range(1, 13):
            caller = open_calls.enter_context(socket.create_connection((LOOPBACK, world.port), timeout=10))
            caller.sendall(f"{request}content-type: application/json\r\ncontent-length: 2\r\n\r\n{{}}".encode())
            wait_for(lambda number=number: sum(map(len, pods)) == number)
        # A pod with more than half as many more than the mean gets no further one.
        assert sorted(map(len, pods)) == [2, 10]


def test_users_of_a_dead_pod_are_served_by_another(renderer: str, tmp_path: Path) -> None:
    with (
        running_world(renderer, POLICY, tmp_path, further={"stable": None}) as world,
        httpx.Client(base_url=world.url, timeout=10) as caller,
    ):
        assert {post(caller, INFER, user)[0] for user in users(world)} == {"stable"}
