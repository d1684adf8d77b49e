"""The writer of the prediction log: real files, with Triton's module played by a few lines."""

from __future__ import annotations

import errno
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import UUID

import numpy as np
import pytest

from tests.services import wait_for
from tests.unit.stack.test_batch import CheckContext, InferenceResponse, Tensor, TritonError

_PROJECT = Path(__file__).parents[3] / "model_servers"
_MODULES = ("predictions", "prediction_lines", "labels", "batch")
Values = np.ndarray[Any, Any]
DECISION = "01900000-0000-7000-8000-000000000001"


class Counter:
    """The one metric of the log, and the time at which the process of the model started."""

    COUNTER, GAUGE = "counter", "gauge"
    count = 0

    def __init__(self, name: str, description: str, kind: str) -> None:
        kinds = {"tollgate_predictions_dropped_total": "counter", "tollgate_model_start_time_seconds": "gauge"}
        assert (kinds[name], bool(description)) == (kind, True)

    def Metric(self, labels: dict[str, str]) -> Counter:  # noqa: N802 - Triton's name of it
        assert labels == {"model": "m", "version": "2"}
        Counter.count = 0
        return self

    def increment(self, times: int) -> None:
        Counter.count += times

    def set(self, started: float) -> None:
        assert started > 0


class Input:
    def __init__(self, name: str, values: Values) -> None:
        self._name, self._values = name, values

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> Values:
        return self._values


class Request:
    """Of the model `m` in version 2, with the input `x`."""

    def __init__(self, values: Values, variant: str = "-", decision: str = DECISION) -> None:
        self._values = values
        self._headers = {"x-authz-model": "m", "x-authz-version": "2", "x-user-id": "alice"}
        self._headers |= {"x-decision-id": decision, "x-model-variant": variant}

    def parameters(self) -> str:
        return json.dumps(self._headers)

    def inputs(self) -> list[Input]:
        return [Input("x", self._values)]


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[str], ModuleType]]:
    """Loaded anew, with TOLLGATE_PREDICTIONS set to a directory that is not there yet."""
    triton: Any = ModuleType("triton_python_backend_utils")
    triton.TritonError, triton.Tensor, triton.InferenceResponse = TritonError, Tensor, InferenceResponse
    triton.MetricFamily = Counter
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", triton)
    monkeypatch.syspath_prepend(_PROJECT)
    for name in ("tollgate_models", *(f"tollgate_models.{name}" for name in _MODULES)):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setenv("TOLLGATE_PREDICTIONS", str(tmp_path / "predictions"))
    monkeypatch.delenv("TOLLGATE_VARIANT", raising=False)
    yield lambda name: importlib.import_module(f"tollgate_models.{name}")
    log = importlib.import_module("tollgate_models.predictions")._log_of("m", "2")
    if log:
        log.close()


@pytest.fixture
def batch(modules: Callable[[str], ModuleType]) -> ModuleType:
    return modules("batch")


@pytest.fixture
def log(modules: Callable[[str], ModuleType]) -> ModuleType:
    return modules("predictions")


def read(request: Request) -> Values:
    return request.inputs()[0].as_numpy()


def doubled(found: CheckContext) -> dict[str, Any]:
    return {"double": np.array([2 * np.asarray(row).reshape(-1)[0] for row in found.rows])}


def answer(batch: ModuleType, *requests: Request, predict: Callable[[Any], dict[str, Any]] = doubled) -> list[Any]:
    answers: list[Any] = batch.answer(requests, "m", "2", read, predict)
    return answers


def finished(directory: Path) -> list[dict[str, Any]]:
    """Every line in files that the usage worker may take."""
    return [json.loads(line) for file in sorted(directory.glob("*.jsonl")) for line in file.read_bytes().splitlines()]


def written(log: ModuleType, directory: Path) -> list[dict[str, Any]]:
    log._log_of("m", "2").close()
    assert not list(directory.glob("*.open"))
    return finished(directory)


def test_every_row_of_every_request_has_a_line(batch: ModuleType, log: ModuleType, tmp_path: Path) -> None:
    answers = answer(
        batch, Request(np.array([[1.0], [2.0]])), Request(np.array([[3.0]]), "stable", DECISION[:-1] + "2")
    )
    assert [each.error for each in answers] == [None, None]
    first, second, third = written(log, tmp_path / "predictions")
    assert (first["decision_id"], first["row"], second["decision_id"], second["row"]) == (DECISION, 0, DECISION, 1)
    assert (first["inputs"], first["outputs"]) == ({"x": 1}, {"double": 2})
    assert (third["decision_id"][-1], third["row"], third["variant"]) == ("2", 0, "stable")
    assert {(each["model"], each["version"], each["mirrored"], each["bytes"]) for each in (first, second, third)} == {
        ("m", "2", False, 8)
    }
    ids = [UUID(each["id"]) for each in (first, second, third)]
    assert len(set(ids)) == 3
    assert {(each.version, each.int >> 80) for each in ids} == {(7, int(first["at"] * 1000))}
    assert "alice" not in json.dumps([first, second, third])


@pytest.mark.parametrize(
    ("of_instance", "of_call", "variant", "mirrored"),
    [
        ("", "-", "", False),
        ("", "canary", "canary", False),
        ("stable", "-", "", False),
        ("stable", "stable", "stable", False),
        ("canary", "stable", "canary", True),
    ],
)
def test_a_copy_for_another_variant_is_known_as_one(
    batch: ModuleType,
    log: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    of_instance: str,
    of_call: str,
    variant: str,
    mirrored: bool,  # noqa: FBT001
) -> None:
    monkeypatch.setenv("TOLLGATE_VARIANT", of_instance)
    answer(batch, Request(np.array([[1.0]]), of_call))
    (line,) = written(log, tmp_path / "predictions")
    assert (line["variant"], line["mirrored"]) == (variant, mirrored)


def test_without_the_variable_nothing_is_written(
    batch: ModuleType, log: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TOLLGATE_PREDICTIONS")
    answer(batch, Request(np.array([[1.0]])))
    assert log._log_of("m", "2") is None
    assert not list(tmp_path.iterdir())


def test_a_refused_request_has_no_line(batch: ModuleType, log: ModuleType, tmp_path: Path) -> None:
    stranger = Request(np.array([[1.0]]))
    stranger._headers["x-authz-model"] = "other"
    assert [each.error is None for each in answer(batch, stranger, Request(np.array([[2.0]])))] == [False, True]
    assert [line["inputs"] for line in written(log, tmp_path / "predictions")] == [{"x": 2}]


def test_texts_numbers_and_lists_are_what_was_sent(batch: ModuleType, log: ModuleType, tmp_path: Path) -> None:
    texts = np.array([["gut \u00fc".encode()], [b"nul \0 and \xff"]], dtype=object)
    answer(batch, Request(texts), predict=lambda found: {"n": np.array([np.nan] * len(found.rows), dtype=np.float32)})
    answer(batch, Request(np.array([[1, 2, 3]])))
    first, second, third = written(log, tmp_path / "predictions")
    assert [line["inputs"] for line in (first, second, third)] == [
        {"x": "gut \u00fc"}, {"x": "nul \ufffd and \ufffd"}, {"x": [1, 2, 3]}
    ]  # fmt: skip
    assert (first["outputs"], first["bytes"]) == ({"n": None}, 6)


def test_a_long_row_is_left_out_and_said(batch: ModuleType, log: ModuleType, tmp_path: Path) -> None:
    texts = np.array([[b"x" * 40_000], [b"short"]], dtype=object)
    answer(batch, Request(texts), predict=lambda _: {"n": np.zeros(2)})
    answer(batch, Request(np.zeros((1, 10_000))))
    assert [(line["inputs"], line.get("left_out")) for line in written(log, tmp_path / "predictions")] == [
        (None, ["inputs"]), ({"x": "short"}, None), (None, ["inputs"])
    ]  # fmt: skip


def test_what_triton_lends_is_copied(batch: ModuleType, log: ModuleType, tmp_path: Path) -> None:
    values = np.array([[1.0]])
    answer(batch, Request(values))
    values[:] = 99
    assert written(log, tmp_path / "predictions")[0]["inputs"] == {"x": 1}


def test_a_file_is_finished_after_a_second(batch: ModuleType, log: ModuleType, tmp_path: Path) -> None:
    directory = tmp_path / "predictions"
    answer(batch, Request(np.array([[1.0]])))
    wait_for(lambda: len(finished(directory)) == 1, 10)
    answer(batch, Request(np.array([[2.0]])))
    wait_for(lambda: len(finished(directory)) == 2, 10)
    assert len(list(directory.iterdir())) == 2
    assert directory.stat().st_mode & 0o777 == 0o700
    assert {file.stat().st_mode & 0o777 for file in directory.iterdir()} == {0o600}
    assert log._log_of("m", "2")._files.is_idle


def test_a_file_is_finished_when_it_is_large(
    batch: ModuleType, log: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "FILE_BYTES", 2_000)
    answer(batch, *[Request(np.array([[float(number)]])) for number in range(30)])
    assert [line["inputs"]["x"] for line in written(log, tmp_path / "predictions")] == list(range(30))
    files = sorted((tmp_path / "predictions").iterdir())
    assert len(files) > 2
    assert [int(file.stem.rpartition("@")[2]) for file in files] == [
        len(file.read_bytes().splitlines()) for file in files
    ]


def test_what_is_too_much_is_dropped_and_counted(
    batch: ModuleType, log: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "MOST_WAITING", 5_000)
    monkeypatch.setattr(log, "PAUSE", 60)  # until it is closed nothing is written
    calls = [Request(np.array([[float(number)]] * 4)) for number in range(4)]
    assert [each.error for each in answer(batch, *calls)] == [None] * 4
    assert Counter.count == 8
    assert [line["inputs"]["x"] for line in written(log, tmp_path / "predictions")] == [0] * 4 + [1] * 4


def test_a_full_disk_fails_no_request(
    batch: ModuleType, log: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.write

    def full(descriptor: int, text: memoryview) -> int:
        if len(text) > 10:
            return real(descriptor, text[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    directory = tmp_path / "predictions"
    with monkeypatch.context() as patched:
        patched.setattr(log.os, "write", full)
        assert answer(batch, Request(np.array([[1.0]])))[0].error is None
        wait_for(lambda: log._log_of("m", "2")._lost == 1, 10)  # which comes after the file
    answer(batch, Request(np.array([[2.0]])))
    assert Counter.count == 1
    log._log_of("m", "2").close()
    texts = [file.read_bytes() for file in sorted(directory.iterdir())]
    assert [text.endswith(b"\n") for text in texts] == [False, True], "half a line, and a whole one"
    assert json.loads(texts[1])["inputs"] == {"x": 2}


def test_a_directory_that_cannot_be_made_fails_no_request(
    batch: ModuleType,
    log: ModuleType,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is lost is counted, and the log is not full of it. Once it can be made, it is."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("TOLLGATE_PREDICTIONS", str(tmp_path / "file"))
    for number in range(1, 4):
        assert answer(batch, Request(np.array([[1.0]])))[0].error is None
        wait_for(lambda count=number: Counter.count + log._log_of("m", "2")._lost == count, 10)
    assert caplog.text.count("predictions of m: a call is not written") == 1
    (tmp_path / "file").unlink()
    answer(batch, Request(np.array([[2.0]])))
    assert Counter.count == 3
    assert [line["inputs"] for line in written(log, tmp_path / "file")] == [{"x": 2}]


def test_a_file_that_cannot_be_finished_is_given_up(batch: ModuleType, log: ModuleType, tmp_path: Path) -> None:
    """Else a descriptor would be lost each time, and its lock would hide the file from the usage worker."""
    directory = tmp_path / "predictions"
    answer(batch, Request(np.array([[1.0]])))
    wait_for(lambda: bool(list(directory.glob("*.open"))), 10)
    assert held(directory)
    directory.rename(tmp_path / "elsewhere")
    wait_for(lambda: log._log_of("m", "2")._files.is_idle, 10)
    wait_for(lambda: not held(tmp_path / "elsewhere"), 10)
    answer(batch, Request(np.array([[2.0]])))
    assert [line["inputs"] for line in written(log, directory)] == [{"x": 2}]


def held(directory: Path) -> list[str]:
    """Files in there that this process has open."""
    targets = [str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.exists()]
    return [target for target in targets if str(directory) in target]


def test_what_nobody_thought_of_is_counted_and_the_next_ones_are_written(
    batch: ModuleType, log: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(batch, Request(np.array([[1.0], [2.0]])), predict=lambda _: {"x": np.array([None, None])})
    with monkeypatch.context() as patched:
        patched.setattr(log, "lines", lambda origin, _: origin.nothing)
        answer(batch, Request(np.array([[3.0]])))
        wait_for(lambda: log._log_of("m", "2")._lost == 1, 10)
    assert Counter.count == 2
    answer(batch, Request(np.array([[4.0]])))
    assert Counter.count == 3
    assert [line["inputs"] for line in written(log, tmp_path / "predictions")] == [{"x": 4}]


def test_what_a_model_answers_weighs_too(
    batch: ModuleType, log: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "MOST_WAITING", 50_000)
    monkeypatch.setattr(log, "PAUSE", 60)  # until it is closed nothing is written
    for _ in range(4):
        answer(batch, Request(np.array([[1.0]])), predict=lambda _: {"x": np.array(["long" * 5_000], dtype=object)})
    assert Counter.count == 2
    assert len(written(log, tmp_path / "predictions")) == 2


def test_what_others_take_from_the_disk_is_not_counted(
    log: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The usage worker, or another process that drops the oldest."""
    monkeypatch.setattr(log, "MOST_ON_DISK", 0)
    for number in range(3):
        (tmp_path / f"{number:020d}@m@1-aa@5.jsonl").write_bytes(b"x" * 100)
    real = log._stored

    def stored(file: Path) -> int:
        size: int = real(file)
        if file.name.startswith(f"{1:020d}"):
            file.unlink()
        return size

    monkeypatch.setattr(log, "_stored", stored)
    assert log._drop_oldest(tmp_path) == 10
    assert not list(tmp_path.iterdir())


def test_the_oldest_are_dropped_where_nobody_takes_them(
    batch: ModuleType, log: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "MOST_ON_DISK", 250)
    directory = tmp_path / "predictions"
    directory.mkdir()
    for number in range(4):
        (directory / f"{number:020d}@m@1-aa@5.jsonl").write_bytes(b"x" * 100)
    answer(batch, Request(np.array([[1.0]])))
    wait_for(lambda: len(list(directory.glob("0*@m@1-aa@5.jsonl"))) == 2, 10)
    assert (directory / f"{3:020d}@m@1-aa@5.jsonl").exists()
    wait_for(lambda: log._log_of("m", "2")._lost == 10, 10)
    answer(batch, Request(np.array([[1.0]])))
    assert Counter.count == 10
    monkeypatch.setattr(log, "MOST_FILES", 1)
    assert log._drop_oldest(directory) >= 5


def test_a_process_that_ends_writes_all_that_it_answered(tmp_path: Path) -> None:
    """No model has to do anything for it: the interpreter closes the log."""
    program = "import tests.unit.stack.test_predictions as t; t.play(4_000)"
    environment = {**os.environ, "TOLLGATE_PREDICTIONS": str(tmp_path), "PYTHONPATH": str(_PROJECT)}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment, cwd=_PROJECT.parent)
    found = finished(tmp_path)
    assert [line["inputs"]["x"] for line in found] == list(range(4_000))
    assert not list(tmp_path.glob("*.open"))


def play(requests: int) -> None:
    """In a process of its own."""
    triton: Any = ModuleType("triton_python_backend_utils")
    triton.TritonError, triton.Tensor, triton.InferenceResponse = TritonError, Tensor, InferenceResponse
    triton.MetricFamily = Counter
    sys.modules["triton_python_backend_utils"] = triton
    batch = importlib.import_module("tollgate_models.batch")
    for number in range(0, requests, 10):
        answer(batch, *(Request(np.array([[float(each)]])) for each in range(number, number + 10)))
    assert Counter.count == 0
