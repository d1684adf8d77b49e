"""The watchdog beside Triton, over processes that look like those of models; the real ones: `e2e/models`."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from http.client import HTTPException
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tests.services import wait_for

Start = Callable[..., subprocess.Popen[bytes]]
Place = tuple[str, str]


@pytest.fixture
def processes(module: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """`stubs`, with shared memory of its own."""
    found = module("tollgate_models.stubs")
    (tmp_path / "shm").mkdir()
    monkeypatch.setattr(found, "_REGIONS", tmp_path / "shm")
    return found


@pytest.fixture
def watch(module: Callable[[str], ModuleType], processes: ModuleType) -> ModuleType:
    found = module("tollgate_models.watchdog")
    assert found.stubs is processes.stubs
    return found


@pytest.fixture
def stub(processes: ModuleType, tmp_path: Path) -> Iterator[Start]:
    """Starts a process with the arguments of a stub, of the Triton that is this process, and its region."""
    started: list[subprocess.Popen[bytes]] = []

    def start(model: str, version: str = "1", prefix: str = "ours_", folder: str = "") -> subprocess.Popen[bytes]:
        program = tmp_path / "repository" / (folder or model) / version / "model.py"
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text("read wait\n")
        region = f"{prefix}{model}{version}{len(started)}"
        (tmp_path / "shm" / region).touch()
        words = ["/x/triton_python_backend_stub", str(program), region, "1", "1", f"{os.getpid()}", "/x", "336"]
        process = subprocess.Popen(
            [*words, f"{model}_0_0", "DEFAULT"], executable="/bin/sh", stdin=subprocess.PIPE, close_fds=True
        )
        started.append(process)
        wait_for(lambda: process.pid in {each.pid for each in processes.stubs()})
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(watch: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(watch, "time", clock)
    return clock


class Call:
    """Of Triton."""

    def __init__(self, answer: object) -> None:
        self.said, self.seconds = answer, 0.0

    def answer(self) -> object:
        return self.said

    def close(self) -> None:
        pass


class Triton:
    """What it would say."""

    def __init__(self) -> None:
        self.is_ready = {("m", "1"), ("m", "2"), ("other", "1")}
        self.answered: dict[Place, int] = {}
        self.why: list[str] = []
        self.reloaded: list[str] = []
        self.asked: list[Place] = []
        self.unloaded = self.forbids = ""
        self.answers: str | None = "refused"
        self.problem: Exception | None = None
        self.breaks, self.loads = False, True
        self.call = Call(None)
        self.runs = "python"

    def backend(self, model: str, version: str) -> str:
        assert (model, version) in self.is_ready
        return self.runs

    def ready(self) -> set[Place]:
        if self.problem:
            raise self.problem
        return self.is_ready

    def counts(self) -> dict[Place, int]:
        return {place: self.answered.get(place, 0) for place in self.is_ready}

    def ask(self, model: str, version: str) -> Call:
        self.asked.append((model, version))
        return Call(self.answers and SimpleNamespace(is_of_model=self.answers == "refused"))

    def unload(self, model: str) -> str:
        self.unloaded = model
        return self.forbids

    def load(self, model: str) -> Call:
        assert model == self.unloaded
        self.reloaded.append(model)
        if self.breaks:
            raise ConnectionResetError
        self.call = Call(self.loads or None)
        return self.call

    def outcome(self, call: Call) -> str | None:
        if call.answer() is None:
            return None
        return self.why.pop() if self.why else ""


def guard(watch: ModuleType, triton: Triton, prefix: str = "", **patience: float) -> Any:  # noqa: ANN401
    """A Watchdog: its module is loaded by name."""
    return watch.Watchdog(os.getpid(), triton, prefix, watch.Patience(**patience))


def end(process: subprocess.Popen[bytes]) -> None:
    """It stays a zombie, as Triton's do."""
    process.kill()
    wait_for(lambda: has_ended(process))


def has_ended(process: subprocess.Popen[bytes]) -> bool:
    return not Path(f"/proc/{process.pid}/cmdline").read_bytes()


def test_a_model_whose_process_ended_is_reloaded_once(
    watch: ModuleType, stub: Start, capfd: pytest.CaptureFixture[str]
) -> None:
    triton = Triton()
    watchdog = guard(watch, triton, "ours_")
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


def test_shared_memory_is_closed_to_others_as_soon_as_it_is_seen(
    watch: ModuleType, stub: Start, tmp_path: Path
) -> None:
    """Also of a model that an operator loaded."""
    watchdog = guard(watch, Triton(), "ours_")
    for name in ("m", "other"):
        stub(name)
        watchdog.look()
        assert {region.stat().st_mode & 0o777 for region in (tmp_path / "shm").iterdir()} == {0o600}


def test_a_process_that_ended_right_after_its_load_is_missed(watch: ModuleType, stub: Start) -> None:
    """Before any look has seen it."""
    triton = Triton()
    watchdog = guard(watch, triton)
    process = stub("m")
    watchdog.look()
    end(process)
    for _ in range(4):
        watchdog.look()
    assert triton.reloaded == ["m"] * 4
    stub("m")
    watchdog.look()
    watchdog.look()
    assert triton.reloaded == ["m"] * 4


def test_a_model_that_needs_no_process_any_more_is_left_alone(watch: ModuleType, stub: Start) -> None:
    """Somebody loaded another kind of model under its name."""
    triton = Triton()
    watchdog = guard(watch, triton)
    process = stub("m")
    watchdog.look()
    end(process)
    triton.runs = "onnxruntime"
    watchdog.look()
    watchdog.look()
    assert triton.reloaded == []


def test_while_one_model_loads_the_others_are_watched(watch: ModuleType, stub: Start) -> None:
    triton = Triton()
    triton.loads = False
    watchdog = guard(watch, triton)
    first, other = stub("m"), stub("other")
    watchdog.look()
    end(first)
    watchdog.look()
    end(other)
    watchdog.look()
    watchdog.look()
    assert triton.reloaded == ["m", "other"]


def test_a_model_that_others_unloaded_stays_so(watch: ModuleType, stub: Start) -> None:
    triton = Triton()
    watchdog = guard(watch, triton)
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


def test_a_process_that_ended_before_it_was_seen_is_missed(watch: ModuleType, stub: Start) -> None:
    """Its model was unloaded, loaded again, and its process ended, between two looks."""
    triton = Triton()
    watchdog = guard(watch, triton)
    process = stub("m")
    watchdog.look()
    triton.is_ready.remove(("m", "1"))
    end(process)
    watchdog.look()
    triton.is_ready.add(("m", "1"))
    watchdog.look()
    assert triton.reloaded == ["m"]


def test_while_triton_does_not_answer_nothing_is_decided_and_it_is_said(
    watch: ModuleType, stub: Start, capfd: pytest.CaptureFixture[str]
) -> None:
    """Once; and not while it starts."""
    triton = Triton()
    watchdog = guard(watch, triton)
    process = stub("m")
    watchdog.look()
    end(process)
    triton.loads = False
    for problem in (FileNotFoundError(), HTTPException("the index answers 403"), None):
        triton.problem = problem
        watchdog.look()
        watchdog.look()
    assert triton.reloaded == ["m"]
    said = capfd.readouterr().out
    assert said.count("does not say") == 1
    assert "watchdog: Triton does not say what it serves: HTTPException('the index answers 403')\n" in said


def test_a_model_that_cannot_be_loaded_is_tried_again(
    watch: ModuleType,
    stub: Start,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    triton = Triton()
    triton.why, triton.breaks = ["no file"], True
    watchdog = guard(watch, triton)
    process = stub("m")
    watchdog.look()
    end(process)
    watchdog.look()
    watchdog.look()
    assert triton.reloaded == ["m"]  # not before RETRY is over
    monkeypatch.setattr(watch, "RETRY", 0)
    watchdog._failed["m"] = 0
    triton.breaks = False
    stub("m")
    for _ in range(4):
        watchdog.look()
    assert triton.reloaded == ["m"] * 3
    said = capfd.readouterr().out
    assert "watchdog: m cannot be loaded, next try in 5 s: Triton does not answer: ConnectionResetError()\n" in said
    assert "watchdog: m cannot be loaded, next try in 0 s: no file\n" in said


def test_a_triton_that_lets_nobody_load_is_named(
    watch: ModuleType, stub: Start, capfd: pytest.CaptureFixture[str]
) -> None:
    """Without `--model-control-mode explicit` the model stays ready, and dead."""
    triton = Triton()
    triton.forbids = "explicit model load / unload is not allowed"
    watchdog = guard(watch, triton)
    process = stub("m")
    watchdog.look()
    end(process)
    watchdog.look()
    assert triton.reloaded == []
    said = capfd.readouterr().out
    assert f"watchdog: m cannot be loaded, next try in 5 s: {triton.forbids}\n" in said
    assert "is not ready" not in said


@pytest.mark.parametrize("answers", [None, "not healthy"])
def test_a_process_that_answers_nothing_is_ended_and_its_model_reloaded(
    watch: ModuleType, stub: Start, clock: Clock, answers: str | None, capfd: pytest.CaptureFixture[str]
) -> None:
    """Where Triton answers for it, too."""
    triton = Triton()
    triton.answers, triton.loads = answers, False
    watchdog = guard(watch, triton, answer=60.0)
    hung, other = stub("m"), stub("m", "2")
    began = clock.now
    while not has_ended(hung):
        assert clock.now < began + 100
        triton.answered["m", "2"] = int(clock.now)
        watchdog.look()
        clock.now += 1
    assert clock.now > began + 60
    assert other.poll() is None
    watchdog.look()
    assert triton.reloaded == ["m"]
    assert triton.asked == [("m", "1")]
    assert "of m 1, which has not answered for 60 s\n" in capfd.readouterr().out


@pytest.mark.parametrize("every", [1, 50])
def test_a_process_that_does_something_is_not_ended(watch: ModuleType, stub: Start, clock: Clock, every: int) -> None:
    """However long the watchdog's own question waits behind others."""
    triton = Triton()
    triton.answers = None
    watchdog = guard(watch, triton, answer=60.0)
    process = stub("m")
    for second in range(300):
        triton.answered["m", "1"] = second // every
        watchdog.look()
        clock.now += 1
    assert (process.poll(), triton.reloaded) == (None, [])
    assert bool(triton.asked) == (every > 20)


def test_a_process_that_nobody_calls_is_asked_and_answers(watch: ModuleType, stub: Start, clock: Clock) -> None:
    triton = Triton()
    watchdog = guard(watch, triton, answer=60.0)
    process = stub("m")
    for _ in range(300):
        triton.answered["m", "1"] = len(triton.asked)
        watchdog.look()
        clock.now += 1
    assert (process.poll(), triton.reloaded) == (None, [])
    assert len(triton.asked) == 15  # twice ten seconds


def test_a_process_that_is_stopped_is_asked_once_it_goes_on_or_is_ended(
    watch: ModuleType, stub: Start, clock: Clock
) -> None:
    """A question would only wait for it in Triton."""
    triton = Triton()
    watchdog = guard(watch, triton, answer=60.0)
    process = stub("m")
    for times in (50, 100):
        process.send_signal(signal.SIGSTOP)
        wait_for(lambda: watch.is_stopped(process.pid))
        for _ in range(times):
            clock.now += 1
            if not has_ended(process):
                watchdog.look()
        if times == 50:
            assert (process.poll(), triton.asked) == (None, [])
            process.send_signal(signal.SIGCONT)
            wait_for(lambda: not watch.is_stopped(process.pid))
            for _ in range(20):
                watchdog.look()
                triton.answered["m", "1"] = len(triton.asked)
                clock.now += 1
            assert triton.asked
    wait_for(lambda: has_ended(process))
    assert not watch.is_stopped(process.pid)
    assert not watch.is_stopped(1 << 22)


def test_a_load_that_takes_too_long_is_ended_and_tried_again(watch: ModuleType, stub: Start) -> None:
    triton = Triton()
    triton.loads = False
    watchdog = guard(watch, triton, load=100.0)
    process = stub("m")
    watchdog.look()
    end(process)
    watchdog.look()
    starting = stub("m")
    triton.call.seconds = 99
    watchdog.look()
    assert starting.poll() is None
    triton.call.seconds = 101
    watchdog.look()
    wait_for(lambda: has_ended(starting))
    triton.call.said, triton.why = True, ["it ended"]
    triton.is_ready.clear()
    watchdog.look()
    assert list(watchdog._failed) == ["m"]


def test_a_load_without_any_process_ends_triton(
    watch: ModuleType, stub: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing else helps then."""
    triton = Triton()
    triton.loads = False
    killed: list[int] = []
    watchdog = guard(watch, triton, load=100.0)
    process = stub("m")
    watchdog.look()
    end(process)
    watchdog.look()
    monkeypatch.setattr(os, "kill", lambda pid, _signal: killed.append(pid))
    triton.call.seconds = 101
    watchdog.look()
    assert killed == []
    triton.call.seconds = 106
    watchdog.look()
    assert killed == [os.getpid()]


def test_a_model_that_triton_copied_is_known_by_its_instance(processes: ModuleType, stub: Start) -> None:
    """As it does with a repository in S3: its directory has a name without meaning."""
    process = stub("a_1", folder="folderAb3dE9")
    assert [(each.model, each.version) for each in processes.stubs() if each.pid == process.pid] == [("a_1", "1")]


def test_what_nobody_thought_of_does_not_end_it_at_once(
    watch: ModuleType, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    triton = subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE)
    watchdog = watch.Watchdog(triton.pid, Triton(), "", watch.Patience())
    monkeypatch.setattr(watch, "PERIOD", 0)
    looks = iter([TypeError("x")] * 9 + [None] + [TypeError("x")] * 99)

    def look() -> None:
        if problem := next(looks):
            raise problem

    monkeypatch.setattr(watchdog, "look", look)
    with pytest.raises(TypeError):
        watchdog.run()
    assert capfd.readouterr().out.count("watchdog: a look failed: TypeError('x')\n") == 9 + 10
    triton.communicate()


def test_when_triton_has_ended_nothing_of_it_is_left(
    watch: ModuleType, stub: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the next one makes meanwhile is."""
    triton = subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE)
    monkeypatch.setattr(os, "getpid", lambda: triton.pid)
    process = stub("m")
    watchdog = guard(watch, Triton(), "ours_")
    watchdog.look()
    (tmp_path / "shm" / "ours_next").touch()
    triton.communicate()
    watchdog.run()
    assert process.wait(10) == -9
    assert [region.name for region in (tmp_path / "shm").iterdir()] == ["ours_next"]


def test_a_process_of_another_user_is_none_of_ours(
    processes: ModuleType, stub: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = stub("m")
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert list(processes.stubs()) == []
    processes.remove_leftovers("ours_")
    assert process.poll() is None


def test_only_what_is_ours_is_removed(processes: ModuleType, stub: Start, tmp_path: Path) -> None:
    ours, theirs = stub("m"), stub("m", prefix="theirs_")
    processes.remove_leftovers("")
    assert ours.poll() is None
    processes.remove_leftovers("ours_")
    assert ours.wait(10) == -9
    assert theirs.poll() is None
    assert [region.name.partition("_")[0] for region in (tmp_path / "shm").iterdir()] == ["theirs"]
