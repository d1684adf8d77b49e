"""A worker process seen from the supervisor. The child is a few lines of Python that plays the worker."""

from __future__ import annotations

import os
import socket
import sys
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import psutil
import pytest

from ext_authz.server import messages, process
from ext_authz.server.messages import Difference, Differences
from ext_authz.server.process import WorkerProcess, spawned
from ext_authz.server.sources import Rejected, Role, in_memory, remove
from tests.waiting import until

SAY = """
import os, socket, sys
line = socket.socket(fileno=int(os.environ['TOLLGATE_WORKER_FD']))
say = lambda text, *fds: socket.send_fds(line, [text], fds)
hear = lambda: socket.recv_fds(line, 4096, 1)
"""
SERVING = 'say(b\'{"type": "report", "serving": true, "listening": true, "up": {"redis": true}}\')\n'
WAITING = (
    'say(b\'{"type": "report", "serving": false, "up": {"redis": false, "postgres": true},'
    ' "lacking": ["redis"], "causes": {"redis": "full"}}\')\n'
)
READY = 'say(b\'{"type": "report", "serving": true}\')\n'
HEAR = "hear()\n"


@asynccontextmanager
async def worker(script: str, *descriptors: int) -> AsyncIterator[WorkerProcess]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stderr", sys.__stderr__)  # pytest's own has no file descriptor to inherit
        started = await spawned([sys.executable, "-S", "-c", SAY + script], os.environ, descriptors)
    running = WorkerProcess(1, 7, *started, deque())
    try:
        yield running
    finally:
        await running.stop(5)


async def test_is_ready_with_its_first_report() -> None:
    async with worker(SERVING + HEAR) as running:
        await running.until_ready()
        assert running.why_not_serving() == ""
        assert running.report.up == {"redis": True}


async def test_says_what_it_waits_for() -> None:
    async with worker(WAITING + HEAR) as running:
        await running.until_ready()
        assert running.why_not_serving() == "waits for redis (full)"


async def test_a_wrong_setting_reaches_the_supervisor() -> None:
    failed = b'{"type": "failed", "faults": ["TOLLGATE_POLICY: no such rule"]}'
    async with worker(f"say({failed!r}); sys.exit(2)") as running:
        with pytest.raises(Rejected, match="TOLLGATE_POLICY: no such rule") as refusal:
            await running.until_ready()
    assert (refusal.value.role, refusal.value.again) == (None, False)


async def test_faults_of_the_policy_reach_the_supervisor() -> None:
    failed = b'{"type": "failed", "faults": ["first", "second"], "role": "policy"}'
    async with worker(f"say({failed!r}); sys.exit(2)") as running:
        with pytest.raises(Rejected) as refusal:
            await running.until_ready()
    assert (refusal.value.faults, refusal.value.role) == (("first", "second"), Role.POLICY)


async def test_its_last_error_is_how_it_ended() -> None:
    failed = b'{"type": "failed", "faults": ["KeyError: 7"], "again": true}'
    async with worker(f"say({failed!r}); sys.exit(1)") as running:
        with pytest.raises(Rejected, match="ended with status 1: KeyError: 7"):
            await running.until_ready()


async def test_an_end_before_it_is_ready() -> None:
    async with worker("sys.exit(7)") as running:
        with pytest.raises(Rejected, match="ended with status 7"):
            await running.until_ready()
        assert running.why_not_serving() == "ended"


async def test_one_that_is_never_ready_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_START_SECONDS", 0.1)
    async with worker(HEAR) as running:
        with pytest.raises(Rejected, match="not ready within"):
            await running.until_ready()


BAD = [
    b"no json",
    b"\xff\xfe",
    b"[" * 50_000,
    b"{}",
    b'{"type": "of another version"}',
    b'{"type": "report", "serving": "perhaps"}',
    b"x" * (messages.MAX_BYTES + 1),
]


@pytest.mark.parametrize("bad", BAD, ids=[repr(bad[:16]) for bad in BAD])
async def test_a_bad_packet_costs_a_log_line_and_the_next_one_is_heard(
    tmp_path: Path, bad: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "bad"
    file.write_bytes(bad)
    async with worker(WAITING + f"say(open({str(file)!r}, 'rb').read())\n" + SERVING + HEAR) as running:
        await until(lambda: running.why_not_serving() == "")
    complaints = {"a message was not understood", "a message is too long"}
    assert [each for each in caplog.messages if each in complaints] == [
        "a message is too long" if len(bad) > messages.MAX_BYTES else "a message was not understood"
    ]


async def test_an_unexpected_descriptor_is_closed() -> None:
    before = psutil.Process().num_fds()
    async with worker("".join(["say(b'nonsense', 0)\n"] * 50) + SERVING + HEAR) as running:
        await until(lambda: running.why_not_serving() == "")
        assert psutil.Process().num_fds() < before + 10


async def test_it_has_the_files_of_its_generation(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("secret")
    key = in_memory(tmp_path / "key")
    script = f"ok = open({str(key)!r}).read() == 'secret'\nif ok: "
    async with worker(script + SERVING + HEAR, int(key.name)) as running:
        await running.until_ready()
    remove(key)


async def test_it_listens_when_it_is_told_to() -> None:
    took = "fds = hear()[1]\nif len(fds) == 1: " + SERVING
    async with worker(READY + took + HEAR) as running:
        await running.until_ready()
        assert (running.why_not_serving(), running.listened() < 0) == ("starts", True)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            await running.listen(listener)
        assert (running.serves, running.listened() >= 0) == (True, True)


async def test_it_has_left_when_it_says_that_it_listens_no_more() -> None:
    script = 'import signal, time\nsignal.signal(signal.SIGTERM, lambda *_: say(b\'{"type": "report"}\'))\n'
    async with worker(script + SERVING + "while True: time.sleep(60)\n") as running:
        await running.until_ready()
        await running.leave()
        assert (running.report.listening, running.died.done()) == (False, False)
        running.kill()


async def test_what_the_candidate_decides_otherwise_is_passed_on() -> None:
    sent = Differences((Difference(1.0, *("x" * 12)),))
    async with worker(f"hear()\nsay({msgspec.json.encode(sent)!r})\n" + HEAR) as running:
        running.announce_drain()
        await until(lambda: bool(running._differences))
    assert tuple(running._differences) == sent.differences


async def test_one_that_cannot_be_heard_any_more_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    async with worker(SERVING + "line.close()\nimport time; time.sleep(600)") as running:
        await running.until_ready()
        monkeypatch.setattr(process, "SILENT_SECONDS", 0.05)
        await until(lambda: running.hangs)
        running.kill()


async def test_one_that_hangs_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    async with worker(SERVING + HEAR) as running:
        await running.until_ready()
        monkeypatch.setattr(process, "SILENT_SECONDS", 0.05)
        await until(lambda: running.hangs)
        assert "has not reported" in running.why_not_serving()


async def test_hears_that_the_drain_begins() -> None:
    async with worker(SERVING + HEAR + WAITING + HEAR) as running:
        await running.until_ready()
        running.announce_drain()
        await until(lambda: not running.report.up["redis"])


async def test_one_that_ignores_the_request_to_end_is_killed() -> None:
    stubborn = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    async with worker(stubborn + SERVING + "while True: " + HEAR) as running:
        await running.until_ready()
        await running.stop(0.1)
        assert running.died.result() == -9
