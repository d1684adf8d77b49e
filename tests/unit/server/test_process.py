"""A worker process seen from the supervisor. The child is a few lines of Python that plays the worker."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from ext_authz.errors import ConfigError
from ext_authz.reload.rollout import Holding, Role
from ext_authz.server import messages, process
from ext_authz.server.process import WorkerDied, WorkerProcess
from tests.unit.server.test_servers import settings

SAY = "import os, sys; line = int(os.environ['TOLLGATE_WORKER_FD']); say = lambda text: os.write(line, text + b'\\n')\n"
HEAR = "os.read(line, 64)\n"
SERVING = 'say(b\'{"type": "report", "serving": true, "up": {"redis": true}}\')\n'
WAITING = (
    'say(b\'{"type": "report", "serving": false, "up": {"redis": false, "postgres": true},'
    ' "lacking": ["redis"], "causes": {"redis": "full"}}\')\n'
)


class Script(WorkerProcess):
    """Runs a script in place of a worker."""

    def __init__(self, script: str) -> None:
        super().__init__(1, "no.module")
        self._command = [sys.executable, "-S", "-c", SAY + script]


@asynccontextmanager
async def worker(tmp_path: Path, script: str) -> AsyncIterator[WorkerProcess]:
    running = Script(script)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stderr", sys.__stderr__)  # pytest's own has no file descriptor to inherit
        await running.start(settings(tmp_path), "no:factory")
    try:
        yield running
    finally:
        await running.stop(5)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - the state of another process
            await asyncio.sleep(0.005)


def test_one_that_was_not_started_yet_has_nothing() -> None:
    """The admin listener answers before."""
    early = WorkerProcess(1, "no.module")
    assert (early.holding(Role.POLICY), early.up(), early.causes(), early.degraded()) == (Holding(), {}, {}, {})


async def test_is_ready_with_its_first_report(tmp_path: Path) -> None:
    async with worker(tmp_path, SERVING + HEAR) as running:
        await running.until_ready()
        assert running.why_not_serving() == ""
        assert running.up() == {"redis": True}


async def test_says_what_it_waits_for(tmp_path: Path) -> None:
    async with worker(tmp_path, WAITING + HEAR) as running:
        await running.until_ready()
        assert running.why_not_serving() == "waits for redis (full)"


async def test_a_wrong_setting_reaches_the_supervisor(tmp_path: Path) -> None:
    async with worker(
        tmp_path, 'say(b\'{"type": "misconfigured", "sentence": "TOLLGATE_POLICY: no such rule"}\'); sys.exit(2)'
    ) as running:
        with pytest.raises(ConfigError, match="TOLLGATE_POLICY: no such rule"):
            await running.until_ready()


async def test_an_end_before_it_is_ready(tmp_path: Path) -> None:
    async with worker(tmp_path, "sys.exit(7)") as running:
        with pytest.raises(WorkerDied, match="ended with status 7"):
            await running.until_ready()
        assert running.why_not_serving() == "ended"


async def test_one_that_is_never_ready_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_START_SECONDS", 0.1)
    async with worker(tmp_path, HEAR) as running:
        with pytest.raises(WorkerDied, match="not ready within"):
            await running.until_ready()


BAD = [
    b"no json",
    b"\xff\xfe",
    b"[" * 100_000,
    b"{}",
    b'{"type": "of another version"}',
    b'{"type": "report", "serving": "perhaps"}',
    b"x" * (messages.MAX_BYTES + 1),
    b"",
]


@pytest.mark.parametrize("bad", BAD, ids=[repr(bad[:16]) for bad in BAD])
async def test_a_bad_line_costs_a_log_line_and_the_next_one_is_heard(
    tmp_path: Path, bad: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "bad"
    file.write_bytes(bad)
    send = f"data = open({str(file)!r}, 'rb').read() + b'\\n'\nwhile data: data = data[os.write(line, data):]\n"
    async with worker(tmp_path, WAITING + send + SERVING + HEAR) as running:
        await until(lambda: running.why_not_serving() == "")
    complaints = {"a message was not understood", "a message is too long"}
    assert [each for each in caplog.messages if each in complaints] == [
        "a message is too long" if len(bad) > messages.MAX_BYTES else "a message was not understood"
    ]


async def test_one_that_cannot_be_heard_any_more_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "SILENT_SECONDS", 0.05)
    async with worker(tmp_path, SERVING + "os.close(line)\nimport time; time.sleep(600)") as running:
        assert await asyncio.wait_for(asyncio.shield(running.died), 10) == -9


async def test_its_place_is_taken_by_another_process(tmp_path: Path) -> None:
    async with worker(tmp_path, SERVING + HEAR) as running:
        await running.until_ready()
        first = running.pid
        running.kill()
        await running.died
        assert (running.serves, running.hangs, running.why_not_serving()) == (False, False, "ended")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "stderr", sys.__stderr__)
            await running.start(settings(tmp_path), "no:factory")
        assert (running.serves, running.hangs, running.why_not_serving()) == (False, False, "starts")
        await running.until_ready()
        assert running.pid != first


async def test_one_that_hangs_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with worker(tmp_path, SERVING + HEAR) as running:
        await running.until_ready()
        monkeypatch.setattr(process, "SILENT_SECONDS", 0.05)
        await until(lambda: running.hangs)
        assert "has not reported" in running.why_not_serving()


async def test_hears_that_the_drain_begins(tmp_path: Path) -> None:
    async with worker(tmp_path, SERVING + HEAR + WAITING + HEAR) as running:
        await running.until_ready()
        running.announce_drain()
        await until(lambda: not running.up()["redis"])


async def test_one_that_ignores_the_request_to_end_is_killed(tmp_path: Path) -> None:
    stubborn = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    async with worker(tmp_path, stubborn + SERVING + "while True: " + HEAR) as running:
        await running.until_ready()
        await running.stop(0.1)
        assert running.died.result() == -9
