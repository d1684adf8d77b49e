"""Every model that is built loads in Triton and answers through Envoy, over both protocols, in each of its versions.

`make test-models` runs this with all frameworks; what the machine does not have is skipped.
"""

from __future__ import annotations

import json
import os
import signal
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import tritonclient.grpc as triton

from devstack.demo.participants import EXAMPLES
from devstack.stack.stack import Stack
from tests.e2e.stack.conftest import served, token_of

CALLERS = {name: f"load{number}" for number, name in enumerate(EXAMPLES, 13)}
"""Whom each model is called by, and no other test calls as: everyone has ten calls a minute."""
EXPECTED = {"sentiment": "positive", "cancer": "benign", "digits": "7", "digits-torch": "7", "digits-tensorflow": "7"}
_INK = ("pixels", [17, *[0] * 63], "pixels must be numbers from 0 to 16")
WRONG: dict[str, tuple[str, list[Any], str]] = {
    "sentiment": ("text", ["x" * 10_001], "text is longer than 10000 characters"),
    "cancer": ("features", [1e39, *[0] * 29], "features must be finite numbers"),
    "digits": _INK,
    "digits-torch": _INK,
    "digits-tensorflow": _INK,
    "cars": ("weight", [40], "weight must be numbers from 1 to 6"),
}
"""Of an input, values of the right shape and type that no caller can mean."""


@pytest.fixture(params=EXAMPLES)
def model(request: pytest.FixtureRequest, stack: Stack) -> str:
    name = str(request.param)
    if name not in served(stack):
        pytest.skip(stack.child("triton").remark)
    return name


def post(stack: Stack, model: str, inputs: dict[str, list[Any]], version: str = "", user: str = "") -> httpx.Response:
    rows = [
        {"name": name, "shape": [1, len(row)], "datatype": "BYTES" if isinstance(row[0], str) else "FP32", "data": row}
        for name, row in inputs.items()
    ]
    headers = {"authorization": f"Bearer {token_of(stack, user or CALLERS[model])}"}
    path = f"/v2/models/{model}{version and f'/versions/{version}'}/infer"
    return httpx.post(stack.addresses.envoy + path, json={"inputs": rows}, headers=headers)


def _outputs(answer: httpx.Response) -> dict[str, object]:
    assert answer.status_code == 200, answer.text
    return {output["name"]: output["data"][0] for output in answer.json()["outputs"]}


def test_it_answers_the_same_over_both_protocols(stack: Stack, model: str) -> None:
    rest = _outputs(post(stack, model, EXAMPLES[model]))
    tensors = []
    for name, values in EXAMPLES[model].items():
        row = np.array([values], dtype=object if isinstance(values[0], str) else np.float32)
        tensors.append(triton.InferInput(name, list(row.shape), "BYTES" if row.dtype == object else "FP32"))
        tensors[-1].set_data_from_numpy(row)
    with triton.InferenceServerClient(stack.addresses.envoy_grpc) as client:
        bearer = {"authorization": f"Bearer {token_of(stack, CALLERS[model])}"}
        found = client.infer(model, tensors, headers=bearer)
    for name, value in rest.items():
        over_grpc = found.as_numpy(name).item()
        assert over_grpc == (value.encode() if isinstance(value, str) else pytest.approx(value))
    assert rest.get("label") == EXPECTED.get(model)
    assert model != "cars" or rest["mpg"] == pytest.approx(23.57, abs=0.01)


def test_each_of_its_versions_answers(stack: Stack, model: str) -> None:
    """heidi may choose the one that an experiment serves to few."""
    for version in (*served(stack)[model], *served(stack, "triton-canary").get(model, ())):
        answer = post(stack, model, EXAMPLES[model], version, user="heidi")
        assert (answer.status_code, answer.json()["model_version"]) == (200, version)


def test_values_that_make_no_sense_are_a_mistake_of_the_caller(stack: Stack, model: str) -> None:
    name, row, said = WRONG[model]
    answer = post(stack, model, EXAMPLES[model] | {name: row})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_inference_request")
    assert said in json.dumps(answer.json())


def test_nobody_notices_that_r_was_killed(stack: Stack) -> None:
    if "cars" not in served(stack):
        pytest.skip(stack.child("triton").remark)
    family = psutil.Process(stack.child("triton").pid).children(recursive=True)
    (r,) = [process for process in family if "serve.R" in " ".join(process.cmdline()) and process.name() == "R"]
    os.kill(r.pid, signal.SIGKILL)
    assert _outputs(post(stack, "cars", EXAMPLES["cars"]))["mpg"] == pytest.approx(23.57, abs=0.01)
