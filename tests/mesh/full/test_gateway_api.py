"""The same policy with the objects of the Gateway API: istiod makes the gateway, and its listener has HTTPS."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest
from tritonclient.grpc import InferenceServerClient

from tests.mesh.full.callers import BODIES, CANCER, bearer, features, grpc_code
from tests.mesh.full.load import wait_for_all
from tests.mesh.world.world import World


@pytest.fixture(scope="module", autouse=True)
def gateway(world: World) -> Iterator[None]:
    """In place of Istio's own objects, which are back at the end."""
    port = world.port
    world.apply_rendered(kind="gateway-api")
    world.port = world.add_gateway("tollgate-istio")
    wait_for_all(world, 200)
    yield
    world.remove_gateway("tollgate-istio")
    world.port = port
    world.apply_rendered()
    world.wait_ready()
    wait_for_all(world, 200)


def test_rest(world: World) -> None:
    with world.client() as client:
        answer = client.post(CANCER, json=BODIES[CANCER], headers=bearer())
    assert (answer.status_code, answer.json()["model_name"]) == (200, "cancer")
    assert answer.headers["x-decision-id"]


def test_grpc(world: World) -> None:
    with InferenceServerClient(f"localhost:{world.port}", ssl=True, root_certificates=str(world.ca)) as client:
        assert client.infer("cancer", [features()], headers=bearer()).get_response().model_name == "cancer"
    assert grpc_code(world, "sentiment", bearer("", "doctor")) is grpc.StatusCode.PERMISSION_DENIED


def test_a_refusal(world: World) -> None:
    with world.client() as client:
        answer = client.post(CANCER, json=BODIES[CANCER], headers=bearer("", "reader"))
    assert (answer.status_code, answer.headers["content-type"]) == (403, "application/problem+json")
    assert answer.json()["decision_id"] == answer.headers["x-decision-id"]
