"""A little of every fuzz target in the suite: the same few thousand inputs every time, then some seconds of Atheris."""

from __future__ import annotations

import importlib
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from random import Random

import pytest

from tests.fuzz.__main__ import TARGETS
from tests.fuzz.choices import Choices
from tests.fuzz.policies import ROOT

RUNS = {"load": 400, "match": 5000, "check_request": 1500}
every_target = pytest.mark.parametrize("name", TARGETS)


@every_target
def test_mutated_seeds(name: str) -> None:
    target, random = importlib.import_module(f"tests.fuzz.fuzz_{name}"), Random(20261120)
    seeds = list(target.seeds())
    for seed in seeds:
        target.target(seed)
    for _ in range(RUNS[name]):
        target.target(mutated(random.choice(seeds), random))


def mutated(seed: bytes, random: Random) -> bytes:
    """A few bytes changed, put in, or left out."""
    data = bytearray(seed)
    for _ in range(random.randrange(1, 6)):
        at = random.randrange(len(data) + 1)
        data[at : at + random.randrange(4)] = random.randbytes(random.randrange(4))
    return bytes(data)


@every_target
def test_inputs_that_say_nothing(name: str) -> None:
    target = importlib.import_module(f"tests.fuzz.fuzz_{name}").target
    for data in (b"", b"\0", b"\xff", b"\xff" * 300, bytes(300), b"\x80" + bytes(range(256))):
        target(data)


@every_target
@pytest.mark.skipif(find_spec("atheris") is None, reason="Atheris has no wheel for this Python or machine")
def test_atheris_finds_nothing_at_once(name: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.fuzz.engine", name, str(tmp_path), "-max_total_time=4", "-seed=20261120"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert "INITED cov: " in ran.stderr
    assert not list(tmp_path.glob("*-found-*"))


@pytest.mark.skipif(find_spec("atheris") is None, reason="Atheris has no wheel for this Python or machine")
def test_what_breaks_is_found(tmp_path: Path) -> None:
    """Or a fuzzer that swallows every error would look just as green."""
    planted = (
        "import sys; from pathlib import Path; from tests.fuzz import engine, fuzz_match\n"
        "fuzz_match._ensure_matched = lambda *_: 1 / 0\n"
        "engine.main('match', Path(sys.argv[1]), ['-max_total_time=20'])\n"
    )
    ran = subprocess.run([sys.executable, "-c", planted, str(tmp_path)], cwd=ROOT, capture_output=True, check=False)
    assert ran.returncode != 0
    assert b"ZeroDivisionError" in ran.stdout + ran.stderr
    assert list(tmp_path.glob("match-found-*"))


def test_choices_end_in_the_first_answer() -> None:
    choices = Choices(b"\x05")
    assert [choices.below(4), choices.below(4), choices.of("abc"), choices.one_in(1)] == [1, 0, "a", False]
    assert Choices(b"\x03\xff\xfe\xfd").text(9) == "\ufffd" * 3
