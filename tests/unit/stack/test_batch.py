"""The models' second line of defence, with Triton's module played by a few lines."""

from __future__ import annotations

import importlib
import json
import runpy
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar, Protocol

import numpy as np
import pytest

_PROJECT = Path(__file__).parents[3] / "model_servers"


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


class MetricFamily:
    """Keeps the counts of its series."""

    COUNTER, GAUGE = "counter", "gauge"
    KINDS: ClassVar[dict[str, str]] = {
        "tollgate_model_labels_total": COUNTER,
        "tollgate_model_start_time_seconds": GAUGE,
    }
    made: ClassVar[list[MetricFamily]] = []
    """Of labels."""
    starts: ClassVar[list[float]] = []

    def __init__(self, name: str, description: str, kind: str) -> None:
        assert (self.KINDS[name], bool(description)) == (kind, True)
        self.counts: dict[tuple[str, ...], int] = {}
        if kind == self.COUNTER:
            self.made.append(self)

    def Metric(self, labels: dict[str, str]) -> Metric:  # noqa: N802 - Triton's name of it
        assert (labels["model"], labels["version"]) == ("m", "2")
        return Metric(self, (labels.get("variant", ""), labels.get("label", "")))


class Metric:
    def __init__(self, family: MetricFamily, key: tuple[str, str]) -> None:
        self._counts, self._key = family.counts, key
        self._counts[key] = 0

    def increment(self, times: int) -> None:
        self._counts[self._key] += times

    def set(self, value: float) -> None:
        MetricFamily.starts.append(value)


@pytest.fixture
def batch(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module, loaded as Triton's stub would: `triton_python_backend_utils` is there."""
    triton: Any = ModuleType("triton_python_backend_utils")
    triton.TritonError, triton.Tensor, triton.InferenceResponse = TritonError, Tensor, InferenceResponse
    triton.MetricFamily = MetricFamily
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", triton)
    monkeypatch.syspath_prepend(_PROJECT)
    for name in ("tollgate_models", "tollgate_models.batch", "tollgate_models.labels"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return importlib.import_module("tollgate_models.batch")


def answer(batch: ModuleType, *requests: Request, counted: bool = False) -> list[InferenceResponse]:
    """Served by the model `m`, which doubles what it is sent, refuses 13 and breaks at 666."""

    def read(request: Request) -> np.ndarray[Any, Any]:
        if 13 in request.rows:
            raise batch.Refused("thirteen is not a number")
        return np.array(request.rows)

    def predict(found: CheckContext) -> dict[str, Any]:
        if 666 in found.rows:
            raise RuntimeError("/secret/path")
        label = np.array(["many" if row > 9 else "few" for row in found.rows], dtype=object)
        return {"double": np.array(found.rows) * 2, "caller": np.array(found.callers, dtype=object), "label": label}

    labels = batch.Labels("m", "2", ("few", "many")) if counted else None
    responses: list[InferenceResponse] = batch.answer(requests, "m", "2", read, predict, labels)
    return responses


def of(user: str, *rows: float, model: str = "m", version: str = "2", variant: str = "-") -> Request:
    headers = {"x-user-id": user, "x-authz-model": model, "x-authz-version": version, "x-model-variant": variant}
    return Request(list(rows), headers)


def outputs(response: InferenceResponse) -> dict[str, Any]:
    assert response.error is None
    return {tensor.name: tensor.values.reshape(-1).tolist() for tensor in response.tensors if tensor.name != "label"}


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


def test_a_request_that_breaks_reading_is_answered_alone_and_shows_nothing(batch: ModuleType) -> None:
    broken = of("alice", 99)
    broken.parameters = lambda: '{"a": "unescaped " quote"}'  # type: ignore[method-assign]
    failed, right = answer(batch, broken, of("bob", 1))
    assert failed.error == TritonError("the model failed", "internal")
    assert outputs(right)["double"] == [2]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([[0.0, np.nan]], "x must be finite numbers"),
        ([[0.0, -np.inf]], "x must be finite numbers"),
        ([[0.0, 16.5]], "x must be numbers from 0 to 16"),
        ([[-1.0, 0.0]], "x must be numbers from 0 to 16"),
        ([0.0, 16.0], "the shape of x has too many rows"),
    ],
)
def test_numbers_that_cannot_be_meant_are_refused(
    batch: ModuleType, values: list[Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensor: Any = ModuleType("tensor")
    tensor.as_numpy = lambda: np.array(values)
    monkeypatch.setattr(batch.triton, "get_input_tensor_by_name", lambda _request, _name: tensor, raising=False)
    with pytest.raises(batch.Refused, match=said):
        batch.numbers(None, "x", least=0, most=16)
    values[:] = [[0.0, 16.0]]
    assert batch.numbers(None, "x", least=0, most=16).tolist() == [[0, 16]]


def test_a_batch_of_refusals_predicts_nothing(batch: ModuleType) -> None:
    (refused,) = answer(batch, of("alice", 13))
    assert refused.error is not None


def test_a_failure_shows_no_path(batch: ModuleType) -> None:
    (failed,) = answer(batch, of("alice", 666))
    assert failed.error == TritonError("the model failed", "internal")


def test_an_answer_that_no_tensor_holds_shows_no_path(batch: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def tensor(name: str, values: Any) -> Tensor:  # noqa: ANN401 - as Triton's
        if 4 in values:
            raise ValueError("in /secret/path")
        return Tensor(name, values)

    monkeypatch.setattr(batch.triton, "Tensor", tensor)
    failed, right = answer(batch, of("alice", 2), of("bob", 1))
    assert failed.error == TritonError("the model failed", "internal")
    assert outputs(right)["double"] == [2]


def test_of_a_batch_that_breaks_only_the_guilty_fail(batch: ModuleType) -> None:
    """Each of the others is counted once, as if it had been asked alone from the start."""
    calls = of("alice", 1, 20), of("mallory", 5, 666), of("bob", 13), of("carol", 30)
    alice, mallory, bob, carol = answer(batch, *calls, counted=True)
    assert outputs(alice) == {"double": [2, 40], "caller": ["alice", "alice"]}
    assert outputs(carol) == {"double": [60], "caller": ["carol"]}
    assert mallory.error == TritonError("the model failed", "internal")
    assert bob.error == TritonError("thirteen is not a number", "invalid")
    assert MetricFamily.made[-1].counts == {("", "few"): 1, ("", "many"): 2}


def test_a_model_that_is_slow_to_fail_is_not_asked_for_ever(batch: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "MOST_SECONDS_ALONE", -1)
    alice, mallory = answer(batch, of("alice", 1), of("mallory", 666))
    assert alice.error == mallory.error == TritonError("the model failed", "internal")


def test_labels_are_counted_by_variant(batch: ModuleType) -> None:
    calls = of("alice", 1, 20, 30, variant="stable"), of("bob", 2, variant="canary"), of("carol", 20), of("dave", 13)
    answer(batch, *calls, counted=True)
    assert MetricFamily.made[-1].counts == {
        ("", "few"): 0, ("", "many"): 1,
        ("stable", "few"): 1, ("stable", "many"): 2,
        ("canary", "few"): 1, ("canary", "many"): 0,
    }  # fmt: skip


def test_it_says_once_when_it_started(batch: ModuleType) -> None:
    before = len(MetricFamily.starts)
    for _ in range(2):
        answer(batch, of("alice", 1))
    (started,) = MetricFamily.starts[before:]
    assert 0 <= time.time() - started < 600


def test_no_caller_adds_series_without_end(batch: ModuleType) -> None:
    answer(batch, *(of("mallory", 1, variant=f"forged-{number}") for number in range(10_000)), counted=True)
    counts = MetricFamily.made[-1].counts
    assert len(counts) == 2 * 17
    assert counts["", "few"] == 10_000 - 16


def test_a_copy_counts_for_the_variant_that_answers_it(batch: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOLLGATE_VARIANT", "canary")
    requests = [of("a", 1, variant="stable"), of("b", 1, variant="canary"), of("c", 1)]
    answer(batch, *requests, counted=True)
    assert {names: count for names, count in MetricFamily.made[-1].counts.items() if count} == {
        ("canary", "few"): 2,
        ("", "few"): 1,
    }


def test_a_label_that_the_model_does_not_list_is_not_counted(
    batch: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    labels = batch.Labels("m", "2", ("few", "many"))
    labels.count([("-", "some")])
    assert set(MetricFamily.made[-1].counts.values()) == {0}
    assert "'some', which is not in its list of labels" in caplog.text


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["a " * 2_000, "a " * 3_000], ""),
        (["a " * 2_000, "a " * 3_001], "text has more than 5000 words"),
        (["\u263a" * 2_499], ""),
        (["\u263a" * 2_500], "text has more than 5000 words"),
        (["x" * 10_001], "text is longer than 10000 characters"),
    ],
)
def test_no_text_keeps_the_lexicon_busy_for_long(
    batch: ModuleType, monkeypatch: pytest.MonkeyPatch, texts: list[str], said: str
) -> None:
    """An emoji is some words to it, here two, and time goes by the square of all words."""
    library: Any = ModuleType("vaderSentiment.vaderSentiment")
    monkeypatch.setitem(sys.modules, library.__name__, library)
    analyzer = SimpleNamespace(emojis={"\u263a": "smiling face"}, polarity_scores=lambda _: {"compound": 0.0})
    library.SentimentIntensityAnalyzer = lambda: analyzer
    monkeypatch.setitem(sys.modules, "vaderSentiment", ModuleType("vaderSentiment"))
    monkeypatch.delitem(sys.modules, "tollgate_models.texts", raising=False)
    tensor = SimpleNamespace(as_numpy=lambda: np.array([[text.encode()] for text in texts], dtype=object))
    monkeypatch.setattr(batch.triton, "get_input_tensor_by_name", lambda *_: tensor, raising=False)
    place = runpy.run_path(str(_PROJECT / "repository" / "sentiment" / "1" / "model.py"))
    model = place["TritonPythonModel"]()
    model.initialize({"model_name": "m", "model_version": "2"})
    (response,) = model.execute([of("alice")])
    assert (response.error.message if response.error else "").partition(",")[0] == said
