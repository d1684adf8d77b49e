"""The process of R beside a model, played by a script in Python that fails as R does."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np
import pytest

_PROJECT = Path(__file__).parents[3] / "model_servers"
ROWS = np.array([[1.5, 2.0], [3.0, 4.0]], dtype=np.float32)
SUMS = "    print(*(numbers[at] + numbers[at + 1] for at in range(0, len(numbers), 2)), flush=True)\n"
LOOP = "import os, sys\nfor line in sys.stdin:\n    numbers = [float(number) for number in line.split()]\n"


@pytest.fixture
def rscript(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(_PROJECT)
    yield importlib.import_module("tollgate_models.rscript")
    for name in [name for name in sys.modules if name.partition(".")[0] == "tollgate_models"]:
        del sys.modules[name]


class Process(Protocol):
    """A `Rscript`."""

    def ask(self, rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]: ...

    def end(self) -> None: ...


Start = Callable[[str], Process]


@pytest.fixture
def start(rscript: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """`Rscript --vanilla SCRIPT` runs the script in Python; `life` counts how often it was started."""
    program = tmp_path / "Rscript"
    program.write_text(f'#!/bin/sh\necho >> {tmp_path}/life\nexec {sys.executable} "$2"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(rscript, "_SECONDS", 10.0)
    processes: list[Process] = []

    def starts(script: str) -> Process:
        (tmp_path / "serve.R").write_text(script.replace("LIFE", f"len(open('{tmp_path}/life').read())"))
        processes.append(rscript.Rscript(tmp_path / "serve.R"))
        return processes[-1]

    yield starts
    for process in processes:
        process.end()


def test_each_row_gets_a_number(start: Start) -> None:
    process = start(LOOP + SUMS)
    assert process.ask(ROWS).tolist() == [3.5, 7.0]
    assert process.ask(ROWS[1:]).tolist() == [7.0]


def test_it_does_not_see_the_library_path_of_triton(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", "/nowhere")
    process = start(LOOP + "    print(*[float('LD_LIBRARY_PATH' in os.environ)] * 2, flush=True)\n")
    assert process.ask(ROWS).tolist() == [0, 0]


@pytest.mark.parametrize(
    "failing",
    ["sys.exit()", "print('object not found', flush=True)", "print(1, flush=True)", "print('1 2\\n3 4', flush=True)"],
    ids=["dies", "an error of R", "too few", "more than a line"],
)
def test_a_first_failure_is_tried_again_in_a_new_process(start: Start, tmp_path: Path, failing: str) -> None:
    process = start(LOOP + f"    if LIFE == 1:\n        {failing}\n        continue\n" + SUMS)
    assert process.ask(ROWS).tolist() == [3.5, 7.0]
    assert (tmp_path / "life").read_text() == "\n\n"


def test_one_that_does_not_answer_in_time_is_replaced(
    start: Start, rscript: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = start(LOOP + SUMS)
    monkeypatch.setattr(rscript, "_SECONDS", 0.0)
    with pytest.raises(TimeoutError, match="does not answer"):
        process.ask(ROWS)
    monkeypatch.setattr(rscript, "_SECONDS", 10.0)
    assert process.ask(ROWS).tolist() == [3.5, 7.0]


def test_what_fails_twice_is_an_error_and_the_next_call_begins_anew(start: Start) -> None:
    process = start(LOOP + "    if LIFE < 3:\n        sys.exit()\n" + SUMS)
    with pytest.raises(OSError, match=r"R has ended|Broken pipe"):
        process.ask(ROWS)
    assert process.ask(ROWS).tolist() == [3.5, 7.0]
