"""What a worker is told, and what it tells."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from ext_authz.reload.rollout import Holding, Order, Role
from ext_authz.server.health import Health
from ext_authz.server.messages import Drain, Inbox, Reload, Report, SupervisorMessage, WorkerMessage, encode
from ext_authz.server.worker import FACTORY, LINE_FD, Worker, environment
from ext_authz.settings import Settings, load_settings
from tests.unit.server.test_servers import settings


def test_a_worker_reads_the_very_settings_of_its_supervisor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also what came from the command line, and secrets, which `str()` would mask."""
    told = settings(tmp_path, redis_url="redis://:secret@127.0.0.1/0", log_decisions=True, drain_delay=0.25)
    for name, value in environment(told, "module:factory", 7).items():
        monkeypatch.setenv(name, value)
    assert load_settings() == told


def test_a_worker_is_told_its_factory_and_its_line(tmp_path: Path) -> None:
    told = environment(settings(tmp_path), "module:factory", 7)
    assert (told[FACTORY], told[LINE_FD]) == ("module:factory", "7")


class FakeService:
    """Takes every policy, each as soon as the test lets it."""

    def __init__(self) -> None:
        self.held = Holding("old")
        self.let = asyncio.Event()
        self.let.set()

    async def start(self) -> None:
        """Nothing to connect to."""

    async def stop(self) -> None:
        """Nothing to hand over."""

    async def check(self, message: bytes) -> bytes:
        return message

    def up(self) -> dict[str, bool]:
        return {"redis": True}

    def lacking(self) -> list[str]:
        return [name for name, works in self.up().items() if not works]

    def causes(self) -> dict[str, str]:
        return {}

    def degraded(self) -> dict[str, str]:
        return {}

    async def obey(self, order: Order) -> None:
        await self.let.wait()
        self.held = Holding(order.hash, order.number)

    def holding(self) -> dict[Role, Holding]:
        return {Role.POLICY: self.held}


class Pair:
    """A worker and the supervisor's end of its line."""

    def __init__(self, chosen: Settings, ours: socket.socket, theirs: socket.socket) -> None:
        self.line = ours
        self.left = asyncio.Event()
        self.service = FakeService()
        self.worker = Worker(chosen, "no:factory", theirs, self.left.set)
        self.worker.attend(self.service, Health(self.service.up, self.service.lacking))

    def send(self, message: SupervisorMessage) -> None:
        self.line.send(encode(message))

    async def report(self) -> Report:
        said = await asyncio.get_running_loop().sock_recv(self.line, 4096)
        return msgspec.json.decode(said.splitlines()[-1], type=Report)


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for end in (ours, theirs):
            end.settimeout(0)
        yield Pair(settings(tmp_path), ours, theirs)
        asyncio.get_running_loop().remove_reader(theirs)


async def test_it_reports_at_once(pair: Pair) -> None:
    said = Report(serving=True, up={"redis": True}, policies={Role.POLICY: Holding("old")})
    assert await pair.report() == said


async def test_it_hears_that_the_drain_begins(pair: Pair) -> None:
    await pair.report()
    pair.send(Drain())
    assert not (await pair.report()).serving
    assert not pair.left.is_set()


async def test_it_reports_as_soon_as_it_has_another_policy(pair: Pair) -> None:
    await pair.report()
    pair.send(Reload(Order(7, Role.POLICY, "file", "new")))
    assert (await pair.report()).policies == {Role.POLICY: Holding("new", 7)}


async def test_orders_are_carried_out_one_after_the_other(pair: Pair) -> None:
    """Whole lines or parts of them, whatever arrives: the last order is in force in the end."""
    await pair.report()
    pair.service.let.clear()
    orders = [Order(number, Role.POLICY, "file", f"policy {number}") for number in (1, 2)]
    told = b"".join(encode(Reload(order)) for order in orders)
    pair.line.send(told[:30])
    await asyncio.sleep(0)
    pair.line.send(told[30:])
    pair.service.let.set()
    async with asyncio.timeout(5):
        while (await pair.report()).policies != {Role.POLICY: Holding("policy 2", 2)}:
            pass


async def test_it_hears_on_after_a_bad_line(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    await pair.report()
    pair.line.send(b"no json\n{}\n" + encode(Drain()))
    assert not (await pair.report()).serving
    assert caplog.messages.count("a message was not understood") == 2


async def test_an_order_that_fails_does_not_keep_the_next_from_being_carried_out(pair: Pair) -> None:
    async def failing(order: Order) -> None:
        pair.service.obey = obey  # type: ignore[method-assign]
        raise RuntimeError("a bug")

    await pair.report()
    obey = pair.service.obey
    pair.service.obey = failing  # type: ignore[method-assign]
    for number in (1, 2):
        pair.send(Reload(Order(number, Role.POLICY, "file", f"policy {number}")))
    async with asyncio.timeout(5):
        while (await pair.report()).policies != {Role.POLICY: Holding("policy 2", 2)}:
            pass


async def test_a_report_that_the_socket_takes_in_part_is_not_broken(pair: Pair) -> None:
    """The supervisor hung for a while, and the socket's buffer filled up to the middle of a report."""
    pair.service.up = lambda: {"x" * 1000: True}  # type: ignore[method-assign]
    health = Health(pair.service.up, pair.service.lacking)
    for _ in range(1000):
        pair.worker._report(pair.service, health)
    heard, inbox = 0, Inbox[WorkerMessage](WorkerMessage, "worker")
    async with asyncio.timeout(5):
        while heard < 20 or pair.worker._unsent:
            reports = inbox.feed(await asyncio.get_running_loop().sock_recv(pair.line, 3000))
            heard += len(reports)
            pair.worker._send(Report(serving=True))
    assert not inbox._too_long


async def test_it_leaves_when_the_supervisor_is_gone(pair: Pair) -> None:
    pair.line.close()
    await asyncio.wait_for(pair.left.wait(), 5)
