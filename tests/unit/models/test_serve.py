"""The watchdog beside Triton, over processes that look like those of models; the real ones: `e2e/models`."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from http.client import HTTPException
from pathlib import Path
from types import ModuleType

import pytest

from tests.services import wait_for

Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def serve(module: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The module, with shared memory of its own."""
    found = module("tollgate_models.serve")
    (tmp_path / "shm").mkdir()
    monkeypatch.setattr(found, "_REGIONS", tmp_path / "shm")
    return found


@pytest.fixture
def stub(serve: ModuleType, tmp_path: Path) -> Iterator[Start]:
    """Starts a process with the arguments of a stub, of the Triton that is this process, and its region."""
    started: list[subprocess.Popen[bytes]] = []

    def start(model: str, version: str = "1", prefix: str = "ours_") -> subprocess.Popen[bytes]:
        program = tmp_path / "repository" / model / version / "model.py"
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text("read wait\n")
        region = f"{prefix}{model}{version}{len(started)}"
        (tmp_path / "shm" / region).touch()
        words = ["/x/triton_python_backend_stub", str(program), region, "1", "1", f"{os.getpid()}", "/x", "336"]
        process = subprocess.Popen(
            [*words, f"{model}_0_0", "DEFAULT"], executable="/bin/sh", stdin=subprocess.PIPE, close_fds=True
        )
        started.append(process)
        wait_for(lambda: process.pid in {each.pid for each in serve.stubs()})
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


class Repository:
    """What Triton would say."""

    def __init__(self) -> None:
        self.is_ready = {("m", "1"), ("m", "2"), ("other", "1")}
        self.why: list[str] = []
        self.reloaded: list[str] = []
        self.unloaded = ""
        self.answers, self.breaks = True, False

    def ready(self) -> set[tuple[str, str]]:
        if not self.answers:
            raise HTTPException
        return self.is_ready

    def unload(self, model: str) -> None:
        self.unloaded = model

    def load(self, model: str) -> str:
        assert model == self.unloaded
        self.reloaded.append(model)
        if self.breaks:
            raise ConnectionResetError
        return self.why.pop() if self.why else ""


def end(process: subprocess.Popen[bytes]) -> None:
    """It stays a zombie, as Triton's do."""
    process.kill()
    wait_for(lambda: not Path(f"/proc/{process.pid}/cmdline").read_bytes())


@pytest.mark.parametrize("between", [" ", "="])
def test_tritons_own_options_say_where_it_is(serve: ModuleType, between: str) -> None:
    given = [
        ("--http-address", "10.0.0.1"),
        ("--http-address", "unix:/run/http"),
        ("--http-restricted-api", "model-repository,trace:x-admin=s3=cret"),
        ("--backend-config", "onnx,x=y"),
        ("--backend-config", "python,shm-region-prefix-name=ours_"),
    ]
    found = serve.Options(["tritonserver", *(word for pair in given for word in between.join(pair).split(" "))])
    assert (found.address, found.port) == ("unix:/run/http", 8000)
    assert (found.key, found.prefix) == ({"x-admin": "s3=cret"}, "ours_")
    plain = serve.Options(["tritonserver"])
    assert (plain.address, plain.port, plain.key, plain.prefix) == ("127.0.0.1", 8000, {}, "")


def test_a_model_whose_process_ended_is_reloaded_once(
    serve: ModuleType, stub: Start, capfd: pytest.CaptureFixture[str]
) -> None:
    triton = Repository()
    watchdog = serve.Watchdog(os.getpid(), triton, "ours_")
    first = stub("m"), stub("m", "2"), stub("other")
    watchdog.look()
    assert triton.reloaded == []
    end(first[0])
    watchdog.look()
    assert triton.reloaded == ["m"]
    end(first[1])  # the reload did that
    again = stub("m"), stub("m", "2")
    watchdog.look()
    watchdog.look()
    assert triton.reloaded == ["m"]
    end(again[1])
    watchdog.look()
    assert triton.reloaded == ["m", "m"]
    said = capfd.readouterr().out
    assert "watchdog: the process of m 1 has ended\nwatchdog: m is not ready\nwatchdog: m is ready again, " in said
    assert {region.stat().st_mode & 0o777 for region in serve._REGIONS.iterdir()} == {0o600}


def test_a_model_that_others_unloaded_stays_so(serve: ModuleType, stub: Start) -> None:
    triton = Repository()
    watchdog = serve.Watchdog(os.getpid(), triton, "")
    process = stub("m")
    watchdog.look()
    triton.is_ready.remove(("m", "1"))
    end(process)
    watchdog.look()
    watchdog.look()
    assert triton.reloaded == []
    again = stub("m")
    triton.is_ready.add(("m", "1"))
    watchdog.look()
    assert triton.reloaded == []
    end(again)


def test_a_process_that_ended_before_it_was_seen_is_missed(serve: ModuleType, stub: Start) -> None:
    """Its model was unloaded, loaded again, and its process ended, between two looks."""
    triton = Repository()
    watchdog = serve.Watchdog(os.getpid(), triton, "")
    process = stub("m")
    watchdog.look()
    triton.is_ready.remove(("m", "1"))
    end(process)
    watchdog.look()
    triton.is_ready.add(("m", "1"))
    watchdog.look()
    assert triton.reloaded == ["m"]


def test_while_triton_does_not_answer_nothing_is_decided(serve: ModuleType, stub: Start) -> None:
    triton = Repository()
    watchdog = serve.Watchdog(os.getpid(), triton, "")
    process = stub("m")
    watchdog.look()
    triton.answers = False
    end(process)
    watchdog.look()
    assert triton.reloaded == []
    triton.answers = True
    watchdog.look()
    assert triton.reloaded == ["m"]


def test_a_model_that_cannot_be_loaded_is_tried_again(
    serve: ModuleType,
    stub: Start,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    triton = Repository()
    triton.why, triton.breaks = ["no file"], True
    watchdog = serve.Watchdog(os.getpid(), triton, "")
    process = stub("m")
    watchdog.look()
    end(process)
    watchdog.look()
    watchdog.look()
    assert triton.reloaded == ["m"]  # not before RETRY is over
    monkeypatch.setattr(serve, "RETRY", 0)
    watchdog._failed["m"] = 0
    triton.breaks = False
    for _ in range(4):
        watchdog.look()
    assert triton.reloaded == ["m"] * 3
    said = capfd.readouterr().out
    assert "watchdog: m cannot be loaded, next try in 5 s: Triton does not answer: ConnectionResetError()\n" in said
    assert "watchdog: m cannot be loaded, next try in 0 s: no file\n" in said


def test_when_triton_has_ended_nothing_of_it_is_left(
    serve: ModuleType, stub: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the next one makes meanwhile is."""
    triton = subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE)
    monkeypatch.setattr(os, "getpid", lambda: triton.pid)
    process = stub("m")
    watchdog = serve.Watchdog(triton.pid, Repository(), "ours_")
    watchdog.look()
    (serve._REGIONS / "ours_next").touch()
    triton.communicate()
    watchdog.run()
    assert process.wait(10) == -9
    assert [region.name for region in serve._REGIONS.iterdir()] == ["ours_next"]


def test_a_process_of_another_user_is_none_of_ours(
    serve: ModuleType, stub: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = stub("m")
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert list(serve.stubs()) == []
    serve.remove_leftovers("ours_")
    assert process.poll() is None


def test_only_what_is_ours_is_removed(serve: ModuleType, stub: Start) -> None:
    ours, theirs = stub("m"), stub("m", prefix="theirs_")
    serve.remove_leftovers("")
    assert ours.poll() is None
    serve.remove_leftovers("ours_")
    assert ours.wait(10) == -9
    assert theirs.poll() is None
    assert [region.name.partition("_")[0] for region in serve._REGIONS.iterdir()] == ["theirs"]
