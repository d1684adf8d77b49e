"""What a worker is told, and what it tells."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ext_authz.server.health import Health
from ext_authz.server.worker import DRAIN, FACTORY, LINE_FD, Worker, environment
from ext_authz.settings import Settings, load_settings
from tests.unit.server.test_pyvoy import settings


def test_a_worker_reads_the_very_settings_of_its_supervisor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also what came from the command line, and secrets, which `str()` would mask."""
    told = settings(tmp_path, redis_url="redis://:secret@127.0.0.1/0", log_decisions=True, drain_delay=0.25)
    for name, value in environment(told, "module:factory", 7).items():
        monkeypatch.setenv(name, value)
    assert load_settings() == told


def test_a_worker_is_told_its_factory_and_its_line(tmp_path: Path) -> None:
    told = environment(settings(tmp_path), "module:factory", 7)
    assert (told[FACTORY], told[LINE_FD]) == ("module:factory", "7")


class Pair:
    """A worker and the supervisor's end of its line."""

    def __init__(self, chosen: Settings, ours: socket.socket, theirs: socket.socket) -> None:
        self.line = ours
        self.left = asyncio.Event()
        self.worker = Worker(chosen, "no:factory", theirs, self.left.set)
        self.worker.attend(Health(lambda: {"redis": True}))

    async def report(self) -> object:
        return json.loads(await asyncio.get_running_loop().sock_recv(self.line, 4096))


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for end in (ours, theirs):
            end.settimeout(0)
        yield Pair(settings(tmp_path), ours, theirs)
        asyncio.get_running_loop().remove_reader(theirs)


async def test_it_reports_at_once(pair: Pair) -> None:
    assert await pair.report() == {"serving": True, "up": {"redis": True}}


async def test_it_hears_that_the_drain_begins(pair: Pair) -> None:
    await pair.report()
    pair.line.send(DRAIN)
    assert await pair.report() == {"serving": False, "up": {"redis": True}}
    assert not pair.left.is_set()


async def test_it_leaves_when_the_supervisor_is_gone(pair: Pair) -> None:
    pair.line.close()
    await asyncio.wait_for(pair.left.wait(), 5)
