"""`tollgate policy` as operators and CI run it: a process with exit codes, one sentence on stderr, a progress bar."""

from __future__ import annotations

import asyncio
import os
import pty
import subprocess
import sys
from pathlib import Path

from tests.benchmarks.ledger import DEMO, ENVIRONMENT, write

TESTS = DEMO.parent / "policy_tests"
INFER = ("POST", "/v2/models/sentiment/infer")


def tollgate(*arguments: str | Path, stderr: int = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ext_authz", "policy", *map(str, arguments)]
    return subprocess.run(
        command, env=os.environ | ENVIRONMENT, stdout=subprocess.PIPE, stderr=stderr, text=True, timeout=60, check=False
    )


def test_the_demo_policy_is_good_and_passes_its_tests(tmp_path: Path) -> None:
    assert tollgate("check", "--strict", DEMO).returncode == 0
    tested = tollgate("test", TESTS, "--junit", tmp_path / "junit.xml")
    assert (tested.returncode, tested.stderr) == (0, "")
    assert ", 0 failed in " in tested.stdout
    assert (tmp_path / "junit.xml").read_bytes().startswith(b"<?xml")


def test_a_wrong_argument_is_one_sentence(tmp_path: Path) -> None:
    for arguments in (
        ("explain", *INFER, DEMO, "--claims", "{"),
        ("explain", *INFER, DEMO, "--header", "x"),
        ("explain", *INFER, DEMO, "--claims", '{"issuer": "nobody"}'),
        ("explain", *INFER, DEMO, "--verify"),
        ("test", tmp_path),
        ("diff", DEMO, DEMO, "--replay", DEMO),
    ):
        result = tollgate(*arguments)
        assert result.returncode == 2, arguments
        assert result.stderr.startswith("tollgate: "), arguments
        assert result.stderr.count("\n") == 1, arguments


def test_a_terminal_sees_how_far_a_replay_is(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.jsonl"
    asyncio.run(write(2000, ledger))
    quiet = tollgate("diff", DEMO, DEMO, "--replay", ledger)
    assert (quiet.returncode, quiet.stderr) == (0, "")
    terminal, its_end = pty.openpty()
    try:
        result = tollgate("diff", DEMO, DEMO, "--replay", ledger, stderr=its_end)
        seen = os.read(terminal, 100_000).decode()
    finally:
        os.close(its_end)
        os.close(terminal)
    assert result.stdout == quiet.stdout
    assert "replaying" in seen
    assert "100%" in seen
