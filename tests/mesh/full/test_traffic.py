"""Requests through the gateway, as callers send them."""

from __future__ import annotations

import queue
import socket
import ssl
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor

import grpc
import httpx
import pytest
from tritonclient.grpc import InferenceServerClient, InferResult
from tritonclient.grpc.service_pb2 import ModelInferRequest

from tests.e2e.hostile.upstream import Reached
from tests.e2e.server.raw import RawCall, frame
from tests.mesh.full.callers import BODIES, CANCER, SENTIMENT, bearer, features, grpc_code
from tests.mesh.world.world import World

TESTER = ("infer", "tester")


def test_an_inference_over_rest_with_a_token_of_the_issuer(world: World) -> None:
    with world.client() as client:
        answer = client.post(CANCER, json=BODIES[CANCER], headers={"authorization": f"Bearer {world.token('alice')}"})
    assert (answer.status_code, answer.json().get("model_name")) == (200, "cancer"), answer.text
    assert answer.headers["x-decision-id"]


def test_an_inference_and_a_stream_over_grpc(world: World) -> None:
    headers = {"authorization": f"Bearer {world.token('bob')}"}
    answers: queue.Queue[tuple[InferResult, Exception | None]] = queue.Queue()
    with InferenceServerClient(f"localhost:{world.port}", ssl=True, root_certificates=str(world.ca)) as client:
        assert client.infer("cancer", [features()], headers=headers).get_response().model_name == "cancer"
        client.start_stream(lambda result, error: answers.put((result, error)), headers=headers)
        for _ in range(3):
            client.async_stream_infer("cancer", [features()])
        streamed = [answers.get(timeout=10) for _ in range(3)]
        client.stop_stream()
    assert [(result.get_response().model_name, error) for result, error in streamed] == [("cancer", None)] * 3


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        (CANCER, {}, 401),
        (CANCER, {"authorization": "Bearer x"}, 401),
        (CANCER, bearer("carol", "reader"), 403),
        ("/v2/models/unknown/infer", bearer(), 403),
        ("/v2/models/cancer/unload", bearer(), 404),
        ("/metrics", bearer(), 404),
    ],
)
def test_a_refusal_is_a_problem_document(world: World, path: str, headers: dict[str, str], status: int) -> None:
    with world.client() as client:
        answer = client.post(path, json=BODIES[CANCER], headers=headers)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert answer.json()["decision_id"] == answer.headers["x-decision-id"]
    assert ("www-authenticate" in answer.headers) == (status != 404)


def test_a_limit(world: World) -> None:
    headers = bearer()
    with world.client() as client:
        answers = [client.post(CANCER, json=BODIES[CANCER], headers=headers) for _ in range(31)]
    assert [answer.status_code for answer in answers] == [200] * 30 + [429]
    assert int(answers[-1].headers["retry-after"]) > 0
    assert grpc_code(world, "cancer", headers) is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_grpc_call_is_decided_by_the_model_in_its_message(world: World) -> None:
    doctor = bearer("", "doctor")
    assert grpc_code(world, "sentiment", doctor) is grpc.StatusCode.PERMISSION_DENIED
    assert grpc_code(world, "cancer", doctor) is grpc.StatusCode.INVALID_ARGUMENT
    assert grpc_code(world, "cancer", doctor, padding=20_000_000) is grpc.StatusCode.INVALID_ARGUMENT


def test_forged_identities_do_not_reach_a_model(world: World) -> None:
    forged = {"x-user-id": "admin", "x-user-roles": "admin", "x-decision-id": "forged", "x-envoy-original-path": "/x"}
    headers = bearer("the-tester", *TESTER) | forged | {"x-experiment": "canary", "x-model-variant": "stable"}
    with world.client() as client:
        answer = client.post(SENTIMENT, json={}, headers=headers).raise_for_status()
    reached = world.canary.reached[-1]
    assert identity(reached) == (["the-tester"], ["canary"])
    assert reached.all("x-decision-id") == [answer.headers["x-decision-id"]] != ["forged"]
    assert "admin" not in dict(reached.headers).values()
    assert reached.all("x-envoy-original-path") == []


@pytest.mark.parametrize("path", [SENTIMENT, "/inference.GRPCInferenceService/ModelInfer"])
def test_forged_trailers_do_not_reach_a_model(world: World, path: str) -> None:
    """They come after the check: neither the authorizer nor Envoy's removal of headers would see them."""
    headers = bearer("the-tester", *TESTER) | {"x-experiment": "canary"}
    call = RawCall(world.port, path=path, authority="localhost", ca=world.ca, more=list(headers.items()))
    body = frame(ModelInferRequest(model_name="sentiment").SerializeToString()) if "grpc" in path.lower() else b"{}"
    trailers = [("x-user-id", "admin"), ("x-user-roles", "admin"), ("x-model-variant", "stable"), ("x-mine", "1")]
    assert call.send(body).end_with(trailers).answer().status == 200
    reached = world.canary.reached[-1]
    assert (reached.is_over, reached.path, reached.body, reached.trailers) == (True, path, body, [])
    assert identity(reached) == (["the-tester"], ["canary"])


def identity(reached: Reached) -> tuple[list[str], list[str]]:
    return reached.all("x-user-id"), reached.all("x-model-variant")


def test_a_variant_is_chosen_by_entitlement_only(world: World) -> None:
    with world.client() as client:
        chosen = [variant(client, bearer("", *TESTER), {"x-experiment": "canary"}) for _ in range(20)]
        users = [bearer() for _ in range(20)]
        assigned = [variant(client, user, {}) for user in users]
        asked = [variant(client, user, {"x-experiment": "canary", "x-model-variant": "canary"}) for user in users]
    assert set(chosen) == {"canary"}
    assert asked == assigned
    assert "stable" in assigned


def test_a_user_stays_with_one_variant_and_the_share_is_near_the_weight(world: World) -> None:
    users = [bearer() for _ in range(300)]
    seen = defaultdict(set)
    with world.client() as client, ThreadPoolExecutor(4) as callers:
        answers = callers.map(lambda number: (number, variant(client, users[number], {})), list(range(300)) * 5)
        for number, answered in answers:
            seen[number].add(answered)
    assert [number for number, variants in seen.items() if len(variants) > 1] == []
    share = sum(variants == {"canary"} for variants in seen.values())
    assert 10 <= share <= 55  # 30 are expected; the bounds are 4 and 5 standard deviations away


def variant(client: httpx.Client, user: dict[str, str], headers: dict[str, str]) -> str:
    """Which model answered: Triton names it, and the canary does not."""
    answer = client.post(SENTIMENT, json=BODIES[SENTIMENT], headers=user | headers).raise_for_status().json()
    return "stable" if "model_name" in answer else "canary"


def test_connect_is_refused_at_once(world: World) -> None:
    """A VirtualService cannot match it, and a request without a route would not be checked: it would hang."""
    context = ssl.create_default_context(cafile=world.ca)
    started = time.monotonic()
    with (
        socket.create_connection(("localhost", world.port), 10) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as caller,
    ):
        caller.sendall(b"CONNECT triton.models:8000 HTTP/1.1\r\nhost: triton.models:8000\r\n\r\n")
        answer = caller.recv(65536).decode()
    assert answer.startswith("HTTP/1.1 403 ")
    assert "urn:tollgate:problem:protocol_error" in answer
    assert time.monotonic() - started < 5


def test_a_rest_body_is_limited(world: World) -> None:
    with world.client() as client:
        assert client.post(CANCER, content=b"x" * 9_000_000, headers=bearer()).status_code == 413


@pytest.mark.parametrize("headers", [bearer("in-plain-text"), {}])
def test_plain_http_is_redirected_without_a_check_and_without_quota(world: World, headers: dict[str, str]) -> None:
    """31 calls: one more than the user's limit."""
    gateway, before = world.gateway.network.address, checks(world)
    sent = [part for header in headers.items() for part in ("--header", ": ".join(header))]
    write = ("--output", "/dev/null", "--write-out", "%{http_code} %{redirect_url}\n")
    calls = f"http://{gateway}{CANCER}?[1-31]"
    answers = world.control.network.run("curl", "--silent", "--data", "{}", *sent, *write, calls)
    assert answers.splitlines() == [f"301 https://{gateway}{CANCER}?{number}" for number in range(1, 32)]
    assert checks(world) == before
    with world.client() as client:
        assert client.post(CANCER, json=BODIES[CANCER], headers=headers).status_code == (200 if headers else 401)
    assert checks(world) == before + 1


def checks(world: World) -> int:
    """Which the gateway's Envoy has sent to authorizers."""
    return sum(world.gateway.hosts("outbound|9000||tollgate.tollgate.svc.cluster.local", "rq_total").values())
