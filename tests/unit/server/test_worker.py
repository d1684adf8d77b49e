"""What a worker is told, and what it tells."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest

from ext_authz.server import worker as module
from ext_authz.server.messages import (
    Difference,
    Differences,
    Line,
    Report,
    SupervisorMessage,
    WorkerMessage,
)
from ext_authz.server.rpc import CHECK, HEALTH, Method
from ext_authz.server.sources import Role
from ext_authz.server.worker import FACTORY, Worker, environment
from ext_authz.settings import Settings, load_settings
from tests.unit.server.test_servers import settings


def test_a_worker_reads_the_very_settings_of_its_supervisor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also what came from the command line, and secrets, which `str()` would mask."""
    given = settings(tmp_path, redis_url="redis://:secret@127.0.0.1/0", log_decisions=True, drain_delay=0.25)
    for name, value in environment(given, "module:factory").items():
        monkeypatch.setenv(name, value)
    assert load_settings(Settings) == given


def test_a_worker_is_told_its_factory(tmp_path: Path) -> None:
    assert environment(settings(tmp_path), "module:factory")[FACTORY] == "module:factory"


class FakeService:
    """Works at once."""

    def __init__(self) -> None:
        self.works = True
        self.found: tuple[Difference, ...] = ()
        self.stopped = False

    async def start(self) -> None:
        """Nothing to connect to."""

    async def stop(self) -> None:
        self.stopped = True

    async def check(self, message: bytes) -> bytes:
        return message

    def report(self) -> Report:
        up = {"redis": self.works}
        return Report({Role.POLICY: "hash"}, up=up, lacking=() if self.works else ("redis",))

    def differences(self) -> tuple[Difference, ...]:
        found, self.found = self.found, ()
        return found


class Pair:
    """A worker and the supervisor's end of its line."""

    def __init__(self, ours: socket.socket, theirs: socket.socket) -> None:
        self.line = Line[WorkerMessage](ours, WorkerMessage, sender="the worker")
        self.left: list[int] = []
        self.service = FakeService()
        theirs_line = Line[SupervisorMessage](theirs, SupervisorMessage, sender="the supervisor", descriptors=1)
        self.worker = Worker(theirs_line, self.service, self.left.append)

    async def heard(self) -> WorkerMessage:
        """The next message."""
        while True:
            for message, _ in self.line.receive():
                return message
            await asyncio.sleep(0.001)

    async def report(self) -> Report:
        message = await self.heard()
        assert isinstance(message, Report)
        return message

    async def listening(self) -> None:
        while not (await self.report()).listening:
            pass

    async def drained(self) -> None:
        """On a busy machine it reports once more before it hears that it shall."""
        while (await self.report()).serving:
            pass


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        async with asyncio.timeout(10):
            yield Pair(ours, theirs)
        asyncio.get_running_loop().remove_reader(theirs)


@pytest.fixture
async def attending(pair: Pair) -> Pair:
    pair.worker.attend()
    assert await pair.report() == Report({Role.POLICY: "hash"}, serving=True, up={"redis": True})
    return pair


async def test_it_hears_that_the_drain_begins(attending: Pair) -> None:
    attending.line.send("drain")
    await attending.drained()
    assert not attending.left


async def test_until_it_listens_it_reports_as_soon_as_something_changed(attending: Pair) -> None:
    """Somebody waits for it."""
    attending.service.works = False
    assert (await asyncio.wait_for(attending.report(), module.REPORT_EVERY / 2)).up == {"redis": False}


async def test_it_hears_on_after_a_bad_packet(attending: Pair, caplog: pytest.LogCaptureFixture) -> None:
    for packet in (b"no json", b"{}"):
        attending.line.end.send(packet)
    attending.line.send("drain")
    await attending.drained()
    assert caplog.messages.count("a message was not understood") == 2


async def test_differences_come_in_pieces(attending: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_DIFFERENCES", 2)
    differences = tuple(Difference(float(number), *("x" * 12)) for number in range(3))
    attending.service.found = differences
    found: list[WorkerMessage] = []
    while len(found) < 2:
        message = await attending.heard()
        found += [message] if isinstance(message, Differences) else []
    assert found == [Differences(differences[:2]), Differences(differences[2:])]


async def test_a_supervisor_that_does_not_read_blocks_no_worker(pair: Pair) -> None:
    for _ in range(5000):
        pair.worker._send_report()
    assert await pair.report()


async def test_it_leaves_when_the_supervisor_is_gone(attending: Pair) -> None:
    attending.line.end.close()
    while not attending.left:  # noqa: ASYNC110 - a call, not an event
        await asyncio.sleep(0.001)


class TestRun:
    async def serve(
        self,
        _: Settings,
        methods: Mapping[str, Method],
        listener: socket.socket | None,
        listens: Callable[[], None],
        stop: asyncio.Event,
    ) -> None:
        assert set(methods) == {CHECK, HEALTH}
        self.listener = listener
        listens()
        await stop.wait()

    @pytest.fixture(autouse=True)
    def collector(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of the whole test run, otherwise."""
        for name in ("collect", "freeze", "set_threshold"):
            monkeypatch.setattr(gc, name, lambda *_: None)

    async def test_it_listens_when_told_to_and_ends(self, pair: Pair, tmp_path: Path) -> None:
        stop = asyncio.Event()
        running = asyncio.create_task(pair.worker.run(settings(tmp_path), self.serve, stop))
        assert not (await pair.report()).listening
        with socket.create_server(("127.0.0.1", 0)) as listener:
            pair.line.send("listen", listener)
            await pair.listening()
            assert self.listener is not None
            assert os.fstat(self.listener.fileno()).st_ino == os.fstat(listener.fileno()).st_ino
        stop.set()
        await running
        assert pair.service.stopped
        self.listener.close()

    async def test_one_that_is_stopped_before_ends_too(self, pair: Pair, tmp_path: Path) -> None:
        stop = asyncio.Event()
        stop.set()
        await pair.worker.run(settings(tmp_path), self.serve, stop)
        assert pair.service.stopped
