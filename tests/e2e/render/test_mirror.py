"""Copies of calls, as a real Envoy makes them: what arrives, who hears of it, and that nobody waits for them."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread

import grpc
import httpx
import pytest
from tritonclient.grpc import service_pb2

from ext_authz.policy.model import Experiment, Mirror
from ext_authz.render.endpoints import LOOPBACK, Address, Endpoints, Triton
from tests.e2e.render.world import RENDERERS, Authorizer, Model, UsageWorker, World, running_front, serving
from tests.services import free_port, wait_for
from tests.unit.render.policies import EVERYDAY, of_kinds

CALL = "/inference.GRPCInferenceService/ModelInfer"
BIG = 5 * 1024 * 1024
QUICK = 5.0
"""Seconds: a copy that was waited for would take 60."""


def mirrored(model: str, to: str) -> Experiment:
    return Experiment(model, model, {"stable": 100, to: 0}, model, mirror=Mirror(to, 100))


POLICY = of_kinds(
    *EVERYDAY,
    experiments={
        "sentiment": mirrored("sentiment", "canary"),
        "slow": mirrored("slow", "silent"),
        "dead": mirrored("dead", "lost"),
    },
)


@contextmanager
def silence() -> Iterator[Triton]:
    """Takes connections, and neither reads nor answers."""
    with socket.create_server((LOOPBACK, 0)) as listening:
        kept: list[socket.socket] = []

        def accept() -> None:
            while True:
                try:
                    kept.append(listening.accept()[0])
                except OSError:
                    return

        thread = Thread(target=accept, daemon=True)
        thread.start()
        where = Address(LOOPBACK, listening.getsockname()[1])
        try:
            yield Triton(where, where)
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join(5)
            for each in kept:
                each.close()


@pytest.fixture(scope="module", params=RENDERERS)
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    authorizer, usage_worker, stable, canary = Authorizer(POLICY), UsageWorker(), Model("stable"), Model("canary")
    directory, nowhere = tmp_path_factory.mktemp("front"), Address(LOOPBACK, free_port())
    with (
        serving(authorizer) as port,
        serving(usage_worker) as log,
        silence() as silent,
        stable.running(),
        canary.running(),
    ):
        endpoints = Endpoints(
            listen=Address(LOOPBACK, free_port()),
            authorizer=Address(LOOPBACK, port),
            usage_worker=Address(LOOPBACK, log),
            triton=stable.place,
            variants={"canary": canary.place, "silent": silent, "lost": Triton(nowhere, nowhere)},
            access_log=str(directory / "access.log"),
        )
        with running_front(request.param, POLICY, endpoints, directory):
            yield World(authorizer, usage_worker, stable, canary, endpoints.listen.port)


def post(world: World, model: str, body: bytes = b"{}", version: str = "") -> httpx.Response:
    headers = {"authorization": "Bearer alice", "content-type": "application/json", "host": "models.example"}
    named = version and f"/versions/{version}"
    return httpx.post(f"{world.url}/v2/models/{model}{named}/infer", content=body, headers=headers, timeout=30)


def rpc(world: World, model: str, size: int = 0, version: str = "") -> bytes:
    raw = [b"x" * size]
    message = service_pb2.ModelInferRequest(model_name=model, model_version=version, raw_input_contents=raw)
    with grpc.insecure_channel(world.address) as channel:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(CALL)
        return call(message.SerializeToString(), metadata=(("authorization", "Bearer alice"),), timeout=30)


def test_a_copy_is_the_call_but_for_its_host(world: World) -> None:
    answer = post(world, "sentiment", b'{"inputs": []}')
    assert answer.json()["model"] == "stable", "nobody gets the answer of the canary"
    wait_for(lambda: bool(world.canary.heard))
    ((headers, body),) = world.canary.heard
    ((original, _),) = world.stable.heard
    assert body == b'{"inputs": []}'
    assert original["host"] == "models.example"
    assert headers["host"] in ("models.example", "models.example-shadow")  # Istio has Envoy leave it as it is
    assert (headers["x-model-variant"], headers["x-authz-model"]) == ("stable", "sentiment")
    assert headers["x-decision-id"] == original["x-decision-id"] == answer.headers["x-decision-id"]
    differing = {name for name in headers.keys() | original.keys() if headers.get(name) != original.get(name)}
    assert differing <= {"host", "x-envoy-internal", "x-envoy-expected-rq-timeout-ms", "x-forwarded-for"}, differing


def test_over_grpc_too(world: World) -> None:
    assert rpc(world, "sentiment") == b"stable"
    wait_for(lambda: bool(world.canary.heard))
    ((headers, body),) = world.canary.heard
    assert service_pb2.ModelInferRequest.FromString(body).model_name == "sentiment"
    assert (headers["x-model-variant"], headers["x-authz-model"]) == ("stable", "sentiment")


def test_nobody_but_the_canary_hears_of_a_copy(world: World) -> None:
    ids = [post(world, "sentiment").headers["x-decision-id"] for _ in range(5)]
    wait_for(lambda: len(world.canary.heard) == 5)
    assert len(world.authorizer.asked) == 5, "a copy is not checked: it takes no quota, and is not in the ledger"
    for decision in ids:
        assert "canary" not in world.usage_worker.outcome(decision).upstream
    post(world, "sentiment")  # later in the log than copies of these
    logged = [one for one in world.usage_worker.outcomes if one and str(one.decision_id) in ids]
    assert len(logged) == 5


def test_other_models_and_streams_are_not_copied(world: World) -> None:
    assert post(world, "cancer").json()["model"] == "stable"
    with grpc.insecure_channel(world.address) as channel:
        stream: grpc.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(
            CALL.replace("ModelInfer", "ModelStreamInfer")
        )
        message = service_pb2.ModelInferRequest(model_name="sentiment").SerializeToString()
        assert list(stream(iter([message]), metadata=(("authorization", "Bearer alice"),))) == [b"stable"]
    post(world, "sentiment")
    wait_for(lambda: bool(world.canary.heard))
    assert len(world.canary.heard) == 1


def test_what_names_a_version_is_not_copied(world: World) -> None:
    """The server of the other variant does not have it: each copy would be an error there."""
    assert post(world, "sentiment", version="1").json()["model"] == "stable"
    assert rpc(world, "sentiment", version="1") == b"stable"
    post(world, "sentiment")
    rpc(world, "sentiment")
    wait_for(lambda: len(world.canary.heard) >= 2)
    assert {headers["x-authz-version"] for headers, _ in world.canary.heard} == {"*"}
    assert len(world.canary.heard) == 2


def test_a_big_body_is_copied_whole(world: World) -> None:
    assert post(world, "sentiment", b"x" * BIG).status_code == 200
    wait_for(lambda: bool(world.canary.heard))
    assert len(world.canary.heard[0][1]) == BIG
    assert rpc(world, "sentiment", BIG) == b"stable"
    wait_for(lambda: len(world.canary.heard) == 2)
    assert len(world.canary.heard[1][1]) > BIG


@pytest.mark.parametrize("model", ["slow", "dead"])
@pytest.mark.parametrize("size", [2, BIG])
def test_nobody_waits_for_a_copy(world: World, model: str, size: int) -> None:
    """The copy of a big body fills all buffers on its way."""
    for _ in range(5):
        start = time.monotonic()
        assert post(world, model, b"x" * size).status_code == 200
        assert rpc(world, model, size) == b"stable"
        assert time.monotonic() - start < QUICK
