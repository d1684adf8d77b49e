"""The models' second line of defence, with Triton's module played by a few lines."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np
import pytest

_FILE = Path(__file__).parents[3] / "model_servers" / "tollgate_models" / "batch.py"


@dataclass
class TritonError(Exception):
    message: str
    code: str
    INVALID_ARG = "invalid"
    INTERNAL = "internal"


@dataclass
class Tensor:
    name: str
    values: Any


@dataclass
class InferenceResponse:
    tensors: list[Tensor] = field(default_factory=list)
    error: TritonError | None = None


class CheckContext(Protocol):
    """The batch as `predict` gets it."""

    rows: list[float]
    callers: list[str]


@dataclass
class Request:
    rows: list[float]
    headers: dict[str, str]
    own: dict[str, str] = field(default_factory=dict)

    def parameters(self) -> str:
        members = [
            f"{json.dumps(name)}:{json.dumps(value)}"
            for part in (self.own, self.headers)
            for name, value in part.items()
        ]
        return f"{{{','.join(members)}}}" if members else ""


@pytest.fixture
def batch(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module, loaded as Triton's stub would: `triton_python_backend_utils` is there."""
    triton: Any = ModuleType("triton_python_backend_utils")
    triton.TritonError, triton.Tensor, triton.InferenceResponse = TritonError, Tensor, InferenceResponse
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", triton)
    spec = importlib.util.spec_from_file_location("tollgate_models_batch", _FILE)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def answer(batch: ModuleType, *requests: Request) -> list[InferenceResponse]:
    """Served by the model `m`, which doubles what it is sent, refuses 13 and breaks at 666."""

    def read(request: Request) -> np.ndarray[Any, Any]:
        if 13 in request.rows:
            raise batch.Refused("thirteen is not a number")
        return np.array(request.rows)

    def predict(found: CheckContext) -> dict[str, Any]:
        if 666 in found.rows:
            raise RuntimeError("/secret/path")
        return {"double": np.array(found.rows) * 2, "caller": np.array(found.callers, dtype=object)}

    responses: list[InferenceResponse] = batch.answer(requests, "m", "2", read, predict)
    return responses


def of(user: str, *rows: float, model: str = "m", version: str = "2") -> Request:
    return Request(list(rows), {"x-user-id": user, "x-authz-model": model, "x-authz-version": version})


def outputs(response: InferenceResponse) -> dict[str, Any]:
    assert response.error is None
    return {tensor.name: tensor.values.reshape(-1).tolist() for tensor in response.tensors}


def test_each_caller_of_one_batch_gets_what_is_theirs(batch: ModuleType) -> None:
    first, second = answer(batch, of("alice", 1, 2), of("bob", 3))
    assert outputs(first) == {"double": [2, 4], "caller": ["alice", "alice"]}
    assert outputs(second) == {"double": [6], "caller": ["bob"]}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x-authz-model": "m"},
        {"x-authz-version": "2"},
        {"x-authz-model": "m", "x-authz-version": ""},
        {"x-authz-model": "", "x-authz-version": "2"},
        {"x-authz-model": "m", "x-authz-version": "1"},
        {"x-authz-model": "m", "x-authz-version": "-"},
        {"x-authz-model": "-", "x-authz-version": "-"},
        {"x-authz-model": "other", "x-authz-version": "2"},
        {"x-authz-model": "other", "x-authz-version": "*"},
        {"X-Authz-Model": "m", "X-Authz-Version": "2"},
    ],
)
def test_what_was_authorised_for_another_model_or_for_none_is_refused(
    batch: ModuleType, headers: dict[str, str]
) -> None:
    before, refused, after = answer(batch, of("alice", 1), Request([2], headers), of("bob", 3))
    assert refused.error == TritonError("not authorised for this model and version", "invalid")
    assert (outputs(before)["double"], outputs(after)["double"]) == ([2], [6])


def test_what_was_authorised_for_every_version_or_model_is_served(batch: ModuleType) -> None:
    of_one, of_all = answer(batch, of("alice", 4, version="*"), of("bob", 5, model="*", version="*"))
    assert (outputs(of_one)["double"], outputs(of_all)["double"]) == ([8], [10])


def test_of_a_parameter_and_a_header_of_one_name_the_header_counts(batch: ModuleType) -> None:
    """Triton writes a request's own parameters first."""
    forged = of("mallory", 4)
    forged.headers = {"x-authz-model": "other", "x-authz-version": "1"}
    forged.own = {"x-authz-model": "m", "x-authz-version": "2"}
    (refused,) = answer(batch, forged)
    assert refused.error is not None


def test_a_mistake_of_one_caller_is_reported_to_that_caller_alone(batch: ModuleType) -> None:
    wrong, right = answer(batch, of("alice", 13), of("bob", 1))
    assert wrong.error == TritonError("thirteen is not a number", "invalid")
    assert outputs(right)["double"] == [2]


def test_a_batch_of_refusals_predicts_nothing(batch: ModuleType) -> None:
    (refused,) = answer(batch, of("alice", 13))
    assert refused.error is not None


def test_a_failure_shows_no_path(batch: ModuleType) -> None:
    (failed,) = answer(batch, of("alice", 666))
    assert failed.error == TritonError("the model failed", "internal")
