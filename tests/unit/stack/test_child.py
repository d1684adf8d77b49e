"""A child is waited for, watched, and stopped with all that it started. The children here are real."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from devstack.stack import launch
from devstack.stack.child import Child, ChildFailed, is_alive
from tests.services import wait_for

SLEEP = "exec sleep 60"


def child_of(tmp_path: Path, script: str, *, patience: float = 10.0, grace: float = 10.0) -> Child:
    """A shell script that answers once it has made the file `ready`."""
    return Child(
        name="part",
        command=["/bin/sh", "-c", script],
        environment={"PATH": os.environ["PATH"], "READY": str(tmp_path / "ready")},
        log=tmp_path / "part.log",
        probe="file:ready",
        answers_at=lambda _: (tmp_path / "ready").exists(),
        patience=patience,
        grace=grace,
    )


def _lives(pid: int) -> bool:
    return psutil.pid_exists(pid) and is_alive(psutil.Process(pid))


def test_start_returns_when_it_answers_and_stop_when_it_is_gone(tmp_path: Path) -> None:
    child = child_of(tmp_path, f"touch $READY; {SLEEP}")
    child.start()
    assert child.is_running
    child.stop()
    assert child.exit_code == -signal.SIGTERM
    child.stop()  # once more changes nothing


def test_a_death_before_the_first_answer_shows_the_end_of_the_log(tmp_path: Path) -> None:
    child = child_of(tmp_path, "seq 30; echo the reason >&2; exit 3")
    with pytest.raises(ChildFailed) as raised:
        child.start()
    said = str(raised.value)
    assert said.startswith("part ended with exit code 3 before it answered\n")
    assert f"{tmp_path}/part.log" in said
    assert said.endswith("the reason")
    assert " 5\n" not in said  # only the end


def test_one_that_never_answers_is_given_up_and_stopped(tmp_path: Path) -> None:
    child = child_of(tmp_path, SLEEP, patience=0.05)
    with pytest.raises(ChildFailed, match="part did not answer within"):
        child.start()
    assert not child.is_running


def test_start_does_not_wait_once_cancelled(tmp_path: Path) -> None:
    asked: list[bool] = []

    def is_cancelled() -> bool:
        asked.append(True)
        return len(asked) > 1  # when it was already started

    child = child_of(tmp_path, SLEEP)
    child.start(is_cancelled)
    assert child.is_running
    child.stop()


def test_nothing_starts_once_cancelled(tmp_path: Path) -> None:
    child = child_of(tmp_path, SLEEP)
    child.start(lambda: True)
    assert not child.is_running


def test_one_that_ignores_the_signal_is_killed(tmp_path: Path) -> None:
    child = child_of(tmp_path, "trap '' TERM; touch $READY; while :; do sleep 60; done", grace=0.1)
    child.start()
    child.stop()
    assert child.exit_code == -signal.SIGKILL


@pytest.mark.parametrize("end", [Child.stop, Child.kill])
def test_what_it_started_goes_with_it(tmp_path: Path, end: type) -> None:
    child = child_of(tmp_path, f"sleep 61 & echo $! > {tmp_path}/grandchild; touch $READY; wait")
    child.start()
    grandchild = int((tmp_path / "grandchild").read_text())
    assert _lives(grandchild)
    end(child)
    wait_for(lambda: not _lives(grandchild))
    assert not child.is_running


def test_a_killed_child_starts_again(tmp_path: Path) -> None:
    child = child_of(tmp_path, f"touch $READY; {SLEEP}")
    child.start()
    first = child.pid
    child.kill()
    assert child.verdict().startswith("part was ended by SIGKILL")
    child.start()
    assert child.is_running
    assert child.pid != first
    child.stop()


def test_no_child_outlives_its_parent() -> None:
    parent = (
        "import os, signal, subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-I', '-S', sys.argv[1], str(os.getpid()), '15', '/bin/cat'],"
        " stdin=subprocess.PIPE, stdout=subprocess.PIPE)\n"
        "child.stdin.write(b'x'); child.stdin.flush(); child.stdout.read(1)\n"  # by now it is cat
        "print(child.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    died = subprocess.run(
        [sys.executable, "-I", "-S", "-c", parent, launch.__file__], stdout=subprocess.PIPE, check=False
    )
    assert died.returncode == -signal.SIGKILL
    wait_for(lambda: not _lives(int(died.stdout)))


def test_a_parent_that_is_gone_before_the_program_starts_is_noticed() -> None:
    command = [sys.executable, "-I", "-S", launch.__file__, "1", "15", "/bin/true"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "the parent ended before the program was started\n")


def test_a_program_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    child = child_of(tmp_path, "")
    child.command = ["/nowhere/program"]
    with pytest.raises(ChildFailed, match="cannot run /nowhere/program: No such file or directory"):
        child.start()
