"""Places are handed from one worker to the next; what dies is replaced, and what dies again and again ends all."""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from ext_authz import restarts
from ext_authz.errors import ConfigError
from ext_authz.restarts import MOST, GivenUp
from ext_authz.server import pool as module
from ext_authz.server.messages import Report
from ext_authz.server.pool import Generation, NotYet, Pool
from tests.unit.server.test_servers import settings


class FakeWorker:
    """Ready at once, unless the world says otherwise. Everything that happens to one is written down in order."""

    world: World

    def __init__(self, number: int, generation: int, command: list[str], differences: object) -> None:
        self.number, self.generation, self.pid = number, generation, len(self.world.all) + 1
        self.died: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.report = Report()
        self.not_replaced = ""
        self.listened_for = -math.inf
        self.started = False
        self.world.all.append(self)

    @property
    def end(self) -> str:
        return f"worker {self.number} of generation {self.generation} ended"

    @property
    def serves(self) -> bool:
        return self.report.listening and not self.died.done()

    def listened(self) -> float:
        return self.listened_for

    async def start(self, environ: Mapping[str, str], fd_variable: str) -> None:
        if self.world.none_left:
            raise OSError("too many open files")
        self.started = True
        self._tell("starts")

    async def until_ready(self) -> None:
        if self.world.failure:
            raise self.world.failure
        self.report = Report(up=dict(self.world.up))

    async def until(self, condition: Callable[[], bool], seconds: float) -> bool:
        return condition()

    async def hand_over(self) -> socket.socket | None:
        self._tell("hands over")
        return socket.socket()

    async def listen(self, listener: socket.socket | None) -> None:
        self._tell("listens")
        self.report = Report(listening=True, up=dict(self.world.up))

    async def leave(self) -> None:
        self._tell("leaves")

    async def stop(self, seconds: float) -> None:
        assert self.started, "what was never started cannot be stopped"
        self._tell("stops")
        self.kill()

    def kill(self) -> None:
        if not self.died.done():
            self.died.set_result(-9)

    def announce_drain(self) -> None:
        self._tell("drains")

    def _tell(self, what: str) -> None:
        self.world.events.append(f"{self.number}/{self.generation} {what}")


class World:
    def __init__(self, directory: Path, workers: int = 2) -> None:
        self.all: list[FakeWorker] = []
        self.events: list[str] = []
        self.failure: Exception | None = None
        self.none_left = False
        """No process can be started, and no socket opened."""
        self.up = {"redis": True}
        self.over = asyncio.Event()
        self.settings = settings(directory, workers=workers)
        self.pool = Pool([], "no:factory", self.over, hands_over=True, differences=lambda _: None)

    def serving(self) -> list[int]:
        """The generation in each place, 0 where nobody serves."""
        return [worker.generation if worker.serves else 0 for worker in self.pool.workers]

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not condition():  # noqa: ASYNC110 - the state of fakes
                await asyncio.sleep(0.001)

    async def renew(self, accept: Callable[[object], None] = lambda _: None) -> None:
        await self.pool.renew(Generation(2, self.settings), accept)


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    world = World(tmp_path)
    monkeypatch.setattr(FakeWorker, "world", world, raising=False)
    monkeypatch.setattr(module, "WorkerProcess", FakeWorker)
    monkeypatch.setattr("ext_authz.observability.metric_files.forget", lambda _: None)
    monkeypatch.setattr("ext_authz.server.ports.bound", lambda *_, **__: socket.socket())
    monkeypatch.setattr(restarts, "_SHORTEST", 0.001)
    monkeypatch.setattr(restarts, "_LONGEST", 0.001)
    await world.pool.start(Generation(1, world.settings))
    assert world.serving() == [1, 1]
    world.events.clear()
    return world


async def test_the_next_listens_before_the_one_before_stops(world: World) -> None:
    await world.renew()
    await world.until(lambda: world.events.count("1/1 stops") == 1)
    order = [each for each in world.events if each.startswith("1/")]
    assert order == ["1/2 starts", "1/1 hands over", "1/2 listens", "1/1 leaves", "1/1 stops"]
    assert world.serving() == [2, 2]


@pytest.mark.parametrize("failure", [ConfigError("bad"), OSError("no memory")])
async def test_a_worker_that_cannot_start_changes_nothing(world: World, failure: Exception) -> None:
    world.failure = failure
    with pytest.raises(type(failure)):
        await world.renew()
    assert world.serving() == [1, 1]
    assert all(worker.died.done() for worker in world.all if worker.generation == 2)


async def test_what_is_not_accepted_leaves_all_as_it_was(world: World) -> None:
    def refuse(_: object) -> None:
        raise ConfigError("no")

    with pytest.raises(ConfigError):
        await world.renew(refuse)
    assert world.serving() == [1, 1]


async def test_it_must_be_able_to_do_what_the_others_can(world: World) -> None:
    world.up = {"redis": False, "jwks:new": False}
    with pytest.raises(NotYet, match="cannot use redis yet"):
        await world.renew()
    world.up = {"redis": True, "jwks:new": False}
    await world.renew()
    assert world.serving() == [2, 2]


async def test_without_a_process_all_stays_as_it_was(world: World) -> None:
    world.none_left = True
    with pytest.raises(OSError, match="too many open files"):
        await world.renew()
    assert world.serving() == [1, 1]
    await world.pool.stop(5, asyncio.Event())


async def test_places_that_were_left_are_filled_later(world: World) -> None:
    await world.renew()
    world.pool.workers[1] = world.pool.workers[1].__class__(2, 1, [], lambda _: None)
    world.failure = OSError("no memory")
    assert await world.pool.fill() == ["no memory"]
    world.failure = None
    assert await world.pool.fill() == []
    assert world.serving() == [2, 2]


class TestDeaths:
    @pytest.fixture
    async def kept(self, world: World) -> World:
        self.keeping = asyncio.create_task(world.pool.keep())
        return world

    async def test_a_dead_worker_is_replaced(self, kept: World) -> None:
        kept.all[1].kill()
        await kept.until(lambda: kept.serving() == [1, 1] and len(kept.all) == 3)
        kept.over.set()
        await self.keeping

    async def test_without_a_socket_the_last_one_is_replaced_all_the_same(self, kept: World) -> None:
        def nothing_left(*_: object, **__: object) -> socket.socket:
            raise OSError("too many open files")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("ext_authz.server.ports.bound", nothing_left)
            kept.none_left = True
            for worker in kept.all[:2]:
                worker.kill()
            await kept.until(lambda: len(kept.all) > 3)
            kept.none_left = False
        await kept.until(lambda: kept.serving() == [1, 1])
        kept.over.set()
        await self.keeping

    async def test_a_crash_loop_ends_with_the_last_error(self, kept: World) -> None:
        kept.failure = OSError("no memory left")
        kept.all[0].kill()
        with pytest.raises(ExceptionGroup) as ended:
            await self.keeping
        (reason,) = ended.value.exceptions
        assert isinstance(reason, GivenUp)
        assert f"no memory left, and it was the end number {MOST + 1}" in str(reason)
        assert kept.pool.workers[0].not_replaced == "no memory left"

    async def test_one_that_served_for_a_while_is_no_crash_loop(self, kept: World) -> None:
        for number in range(3 * MOST):
            kept.all[-1].listened_for = module.STABLE_SECONDS + 1
            kept.all[-1].kill()
            await kept.until(lambda number=number: len(kept.all) == number + 3 and kept.serving() == [1, 1])  # type: ignore[misc]
        kept.over.set()
        await self.keeping

    async def test_a_file_that_was_broken_since_is_none_while_others_serve(
        self, kept: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "_MISCONFIGURED_SECONDS", 0.001)
        kept.failure = ConfigError("TOLLGATE_TLS_CERT: cannot read it")
        kept.all[1].kill()
        await kept.until(lambda: len(kept.all) > 3 * MOST)
        kept.failure = None
        await kept.until(lambda: kept.serving() == [1, 1])
        kept.over.set()
        await self.keeping


async def test_at_the_end_no_worker_is_left(world: World) -> None:
    world.pool.announce_drain()
    await world.pool.stop(5, asyncio.Event())
    assert all(worker.died.done() for worker in world.all)
    assert sorted(world.events) == ["1/1 drains", "1/1 stops", "2/1 drains", "2/1 stops"]
