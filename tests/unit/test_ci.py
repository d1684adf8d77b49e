"""CI runs every test exactly once: what `.ci/run` asks of make, as make would run it, shares all files out."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import product
from pathlib import Path

import pytest
from _pytest.mark.expression import Expression
from msgspec import Struct

from tests import sharing

ROOT = Path(__file__).parents[2]
AGAIN = {"tests/e2e/stack/test_every_model.py": "make test-models, when all frameworks are there"}
ELSEWHERE = {
    "tests/mesh/full/": "make mesh-proof, which needs root and a cluster's control planes",
    "tests/recount/": "make recount, which takes minutes",
}
MARKS = ("alone", "mesh")
"""By which runs are divided. The others only skip."""
_OF_MESH = re.compile(r"mark\.mesh|RENDERERS|_WITH_A_WORLD")


class Run(Struct, frozen=True):
    """One command of pytest."""

    paths: tuple[str, ...]
    ignored: tuple[str, ...]
    marks: str

    def has(self, file: str, marks: Mapping[str, bool]) -> bool:
        if not any(map(_below, [file] * len(self.paths), self.paths)) or any(
            _below(file, path) for path in self.ignored
        ):
            return False
        return not self.marks or Expression.compile(self.marks).evaluate(lambda name, /, **_: marks.get(name, False))


def _below(file: str, path: str) -> bool:
    return file == path or file.startswith(path.rstrip("/") + "/")


def _targets() -> set[str]:
    """That `.ci/run` makes."""
    lines = re.findall(r"\bmake ([^|&;\n]+)", (ROOT / ".ci" / "run").read_text())
    return {word for line in lines for word in line.split() if re.fullmatch("[a-z0-9-]+", word)}


def _runs(*targets: str) -> Iterator[Run]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    shown = subprocess.run(
        ["make", "--dry-run", *targets], cwd=ROOT, env=environ, text=True, check=True, capture_output=True
    )
    for line in re.findall(r"run --no-sync (pytest .*?)(?: \|\|| &&|;|$)", shown.stdout, re.MULTILINE):
        words = shlex.split(line)
        paths = (word for word in words if word.startswith("tests/"))
        ignored = (word.partition("=")[2] for word in words if word.startswith("--ignore="))
        yield Run(tuple(paths), tuple(ignored), words[words.index("-m") + 1] if "-m" in words else "")


@pytest.fixture(scope="module")
def runs() -> list[Run]:
    wanted = {"test", "test-models", "k8s", "mesh-proof-fast"}
    assert wanted <= _targets(), "what CI makes has changed: say here which of it runs tests"
    found = list(_runs(*sorted(wanted)))
    assert len(found) == 7, found
    return found


@cache
def _files() -> tuple[str, ...]:
    found = []
    for where, folders, names in os.walk(ROOT / "tests"):
        folders[:] = [name for name in folders if not name.startswith(".")]  # environments
        found += [str((Path(where) / name).relative_to(ROOT)) for name in names if re.fullmatch(r"test_.*\.py", name)]
    return tuple(sorted(found))


def _marks(file: str) -> Iterator[dict[str, bool]]:
    """Of all that a test of this file may have."""
    text = (ROOT / file).read_text()
    may = {"alone": "mark.alone" in text, "mesh": _OF_MESH.search(text) is not None}
    for given in product(*([False, True] if may[name] else [False] for name in MARKS)):
        yield dict(zip(MARKS, given, strict=True))


def test_every_test_is_run_exactly_once(runs: list[Run]) -> None:
    wrong = {}
    for file in _files():
        expected = 0 if file.startswith(tuple(ELSEWHERE)) else 2 if file in AGAIN else 1
        for marks in _marks(file):
            if (count := sum(run.has(file, marks) for run in runs)) != expected:
                wrong[file, tuple(name for name in MARKS if marks[name])] = count
    assert not wrong


@pytest.mark.parametrize("file", ["tests/e2e/test_new.py", "tests/new/test_it.py", "tests/unit/render/test_new.py"])
def test_a_file_that_no_run_has_would_be_found(runs: list[Run], file: str) -> None:
    count = sum(run.has(file, dict.fromkeys(MARKS, False)) for run in runs)
    assert count == (0 if file.startswith("tests/new") else 1)


def test_what_the_tests_are_shared_out_by_is_there() -> None:
    """A name of nothing would only make CI slower, unseen."""
    files = _files()
    for name, tests in sharing.TOGETHER.items():
        assert any(tests.match(f"{file}::test_it[{name}]") for file in files), name
    assert [name for name in sharing.LONGEST_FIRST if name not in (*sharing.TOGETHER, *files)] == []
