"""Callers read the reason of a refusal with the client that they have."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable

import numpy as np
import pytest
import requests
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

from ext_authz.decision import Deny, Reason
from ext_authz.edge.request import parse
from ext_authz.edge.response import Responder
from ext_authz.policy.model import Responses
from tests.e2e.edge.mesh import Mesh

DECISION_ID = "c2a5a3a1-3f3e-4b7a-9f6e-0b7b6a0f9d10"
REFUSED = Deny(DECISION_ID, Reason.FORBIDDEN, "model_forbidden", "this token may not call the model 'cancer'")
READ = f"{REFUSED.detail} (decision {DECISION_ID})"
RESPONDER = Responder("triton", Responses(), "policy-hash")


@pytest.fixture
def address(mesh: Mesh) -> str:
    mesh.authorizer.answer = lambda message: RESPONDER.build(REFUSED, parse(message).is_grpc)
    return mesh.address()


def _triton_http(address: str) -> None:
    with tritonclient.http.InferenceServerClient(address) as client:
        rows = tritonclient.http.InferInput("rows", [1], "FP32")
        rows.set_data_from_numpy(np.zeros(1, np.float32))
        client.infer("cancer", [rows])


def _triton_http_metadata(address: str) -> None:
    with tritonclient.http.InferenceServerClient(address) as client:
        client.get_model_metadata("cancer")


def _triton_grpc(address: str) -> None:
    with tritonclient.grpc.InferenceServerClient(address) as client:
        client.get_model_metadata("cancer")


@pytest.mark.parametrize(
    ("call", "status", "message"),
    [
        (_triton_http, "403", READ),
        (_triton_http_metadata, "403", READ),
        (_triton_grpc, "StatusCode.PERMISSION_DENIED", f"model_forbidden: {READ}"),
    ],
)
def test_tritonclient_shows_the_reason(address: str, call: Callable[[str], None], status: str, message: str) -> None:
    with pytest.raises(InferenceServerException) as refused:
        call(address)

    assert str(refused.value) == f"[{status}] {message}"


def test_requests_has_the_problem(address: str) -> None:
    response = requests.post(f"http://{address}/v2/models/cancer/infer", json={}, timeout=10)

    assert (response.status_code, response.json()["code"], response.json()["error"]) == (403, REFUSED.code, READ)


def test_curl_prints_the_problem(address: str) -> None:
    command = ["curl", "--silent", "--fail-with-body", f"http://{address}/v2/models/cancer"]
    printed = subprocess.run(command, capture_output=True, text=True, check=False)

    assert printed.returncode == 22
    assert json.loads(printed.stdout)["error"] == READ
