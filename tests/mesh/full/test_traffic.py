"""Requests through the gateway, as callers send them."""

from __future__ import annotations

import numpy as np
from tritonclient.grpc import InferenceServerClient, InferInput

from tests.mesh.world.world import World

INFER = "/v2/models/sentiment/infer"
BODY = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1, 1], "data": ["What a wonderful day!"]}]}


def test_an_inference_over_rest(world: World) -> None:
    with world.client() as client:
        answer = client.post(INFER, json=BODY, headers={"authorization": f"Bearer {world.token('alice')}"})
    assert (answer.status_code, answer.json().get("model_name")) == (200, "sentiment"), answer.text
    assert answer.headers["x-decision-id"]


def test_an_inference_over_grpc(world: World) -> None:
    text = InferInput("text", [1, 1], "BYTES")
    text.set_data_from_numpy(np.array([["What a wonderful day!"]], dtype=object))
    headers = {"authorization": f"Bearer {world.token('bob')}"}
    with InferenceServerClient(f"localhost:{world.port}", ssl=True, root_certificates=str(world.ca)) as client:
        answer = client.infer("sentiment", [text], headers=headers)
    assert answer.as_numpy("label").size == 1
