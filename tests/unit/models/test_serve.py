"""How Triton is started with its watchdog beside it; the real ones: `e2e/models`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from tests.services import wait_for

SERVE = Path(__file__).parents[3] / "model_servers" / "tollgate_models" / "serve.py"


@pytest.fixture
def serve(module: Callable[[str], ModuleType]) -> ModuleType:
    return module("tollgate_models.serve")


@pytest.mark.parametrize("between", [" ", "="])
def test_tritons_own_options_say_where_it_is(serve: ModuleType, between: str) -> None:
    given = [
        ("--http-address", "10.0.0.1"),
        ("--http-address", "unix:/run/http"),
        ("--http-restricted-api", "model-repository,trace:x-admin=s3=c:ret"),
        ("--http-restricted-api", "statistics:x-other=word"),
        ("--backend-config", "onnx,x=y"),
        ("--backend-config", "python,shm-region-prefix-name=ours_"),
    ]
    found = serve.Options(["tritonserver", *(word for pair in given for word in between.join(pair).split(" "))])
    assert found.address == ("unix:/run/http", 8000, {"x-admin": "s3=c:ret"})
    assert found.prefix == "ours_"
    plain = serve.Options(["tritonserver", "--http-port=x"])
    assert (plain.address, plain.prefix) == (("127.0.0.1", 8000, {}), "")


def test_how_long_a_model_may_take_is_in_the_environment(serve: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOLLGATE_MODEL_ANSWER_SECONDS", "")
    monkeypatch.setenv("TOLLGATE_MODEL_LOAD_SECONDS", "7.5")
    assert serve.patience() == (60, 7.5)


@pytest.mark.parametrize("said", ["0", "never", "nan", "inf", "-1"])
def test_what_is_no_time_is_one_sentence(said: str) -> None:
    environment = {**os.environ, "TOLLGATE_MODEL_LOAD_SECONDS": said}
    done = subprocess.run(
        [sys.executable, "-I", "-S", SERVE, "/bin/true"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == f"TOLLGATE_MODEL_LOAD_SECONDS: '{said}' is not a number of seconds, at least 1\n"


def test_a_program_that_is_not_there_is_one_sentence() -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-S", SERVE, "/no/such"], capture_output=True, text=True, check=False, timeout=20
    )
    assert (done.returncode, done.stderr) == (1, "cannot run /no/such: No such file or directory\n")


def words(process: int) -> str:
    return Path(f"/proc/{process}/cmdline").read_text()


def children(process: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def test_without_its_watchdog_it_is_stopped() -> None:
    """Also if it was killed. Only one is started where an image starts it through this file, and a chart the image."""
    shell = "trap 'echo stopped; exit 3' TERM; echo started; while :; do sleep 0.05; done"
    command = [sys.executable, "-I", "-S", str(SERVE)]
    inner = [*command, "/bin/sh", "-c", shell]
    with subprocess.Popen([*command, sys.executable, *inner[1:]], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "started\n"
        assert process.poll() is None
        (watchdog,) = [each for each in children(process.pid) if "serve.py" in words(each)]
        os.kill(watchdog, signal.SIGTERM)  # as everything in a session gets it
        os.kill(watchdog, signal.SIGKILL)
        wait_for(lambda: process.poll() is not None)
        assert process.stdout.read() == "stopped\n"
        assert process.returncode == 3
