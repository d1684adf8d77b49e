"""What is read from the files of models: nothing but whole lines of the model that the file is of."""

from __future__ import annotations

import fcntl
import json
import os
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

from ext_authz.policy.rights import EVERYONE, Predictions
from ext_authz.predictions import files
from ext_authz.predictions.files import Line, finish_abandoned, finished, kept_inputs, lines_of
from tests.predictions import line, new_id, write

DECISION = str(uuid.uuid4())
LATER = time.time() + 86_400


def read(directory: Path) -> list[Line | None]:
    return [each for file in finished(directory) for each in lines_of(file)]


def only(directory: Path) -> Line:
    (found,) = read(directory)
    assert found is not None
    return found


def kept(inputs: Any) -> Predictions:  # noqa: ANN401 - a literal
    return Predictions(inputs, 60, EVERYONE)


def test_a_line_is_read(tmp_path: Path) -> None:
    write(tmp_path, line(DECISION, left_out=["inputs"]))
    found = only(tmp_path)
    assert (str(found.decision_id), found.model, bytes(found.outputs)) == (
        DECISION,
        "sentiment",
        b'{"label": "positive"}',
    )


def test_files_come_in_the_order_of_time_and_others_are_left_alone(tmp_path: Path) -> None:
    paths = [write(tmp_path, line(DECISION)) for _ in range(3)]
    for other in ("notes.txt", "x.jsonl", "01@sentiment@1@1.jsonl", f"{1:020d}@../x@1-ab@1.jsonl".replace("/", "")):
        (tmp_path / other).write_text("secret")
    assert [file.path for file in finished(tmp_path)][-3:] == paths
    assert all(file.path.name.startswith("0") for file in finished(tmp_path))
    assert [(file.model, file.rows) for file in finished(tmp_path)][-1] == ("sentiment", 1)


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"no json",
        b"{}",
        b"\xff",
        b'{"id"',
        json.dumps(line(DECISION)).encode()[:-5],
        json.dumps(line(DECISION, model="other")).encode(),
        json.dumps(line("me")).encode(),
        json.dumps(line(DECISION, row=-1)).encode(),
        json.dumps(line(DECISION, row="0")).encode(),
        json.dumps(line(DECISION, at=LATER, id=new_id(LATER))).encode(),
        json.dumps(line(DECISION, id=new_id(1.0))).encode(),
        json.dumps(line(DECISION, at=-1.0, id=str(uuid.uuid4()))).encode(),
        json.dumps(line(DECISION, mirrored="yes")).encode(),
        json.dumps(line(DECISION, inputs=[1])).encode(),
        json.dumps(line(DECISION, outputs="text")).encode(),
        json.dumps(line(DECISION, version="1" * 256)).encode(),
        json.dumps(line(DECISION, inputs={"text": "x" * 300_000})).encode(),
    ],
)
def test_a_broken_line_is_broken_and_the_next_is_read(tmp_path: Path, broken: bytes) -> None:
    write(tmp_path, broken, line(DECISION))
    first, second = read(tmp_path)
    assert first is None
    assert second is not None


def test_a_file_that_no_model_would_write_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MOST_OF_FILE", 100)
    write(tmp_path, line(DECISION), line(DECISION))
    assert read(tmp_path) == [None, None]


def test_the_open_file_of_a_process_that_is_gone_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alive, gone, fresh = (tmp_path / f"{number:020d}@sentiment@1-ab.open" for number in range(3))
    for path in (alive, gone, fresh):
        path.write_bytes(json.dumps(line(DECISION)).encode() + b"\n")
    for path in (alive, gone):
        os.utime(path, (0, 0))
    with alive.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        finish_abandoned(tmp_path)
        assert sorted(path.suffix for path in tmp_path.iterdir()) == [".jsonl", ".open", ".open"]
        assert [file.rows for file in finished(tmp_path)] == [1]
    finish_abandoned(tmp_path)
    monkeypatch.setattr(files, "ABANDONED", -1)
    finish_abandoned(tmp_path)
    assert len(finished(tmp_path)) == 3


def test_inputs_are_kept_as_the_policy_says(tmp_path: Path) -> None:
    write(tmp_path, line(DECISION, inputs={"b": 1, "a": "x"}), line(DECISION, inputs={"a": "x", "b": 1}))
    write(tmp_path, line(DECISION, model="other", inputs={"a": "x", "b": 1}), model="other")
    write(tmp_path, line(DECISION, inputs=None))
    first, second, other, none = (each for each in read(tmp_path) if each)
    assert kept_inputs(first, kept("none"), b"key") == (None, None)
    assert kept_inputs(first, kept("full"), b"key") == ('{"b": 1, "a": "x"}', None)
    assert [kept_inputs(none, kept(how), b"key") for how in ("full", "hashed")] == [(None, None)] * 2
    hashes = [kept_inputs(each, kept("hashed"), b"key") for each in (first, second, other)]
    assert hashes[0] == hashes[1] != hashes[2]
    assert hashes[0] != kept_inputs(first, kept("hashed"), b"other key")
    assert hashes[0][0] is None
    assert len(hashes[0][1] or b"") == 32
