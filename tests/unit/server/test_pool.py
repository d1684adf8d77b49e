"""Places are handed from one worker to the next; what dies is replaced, and what dies again and again ends all."""

from __future__ import annotations

import asyncio
import math
import os
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from ext_authz import restarts
from ext_authz.restarts import MOST, GivenUp
from ext_authz.server import pool as module
from ext_authz.server.messages import Report
from ext_authz.server.pool import Accept, Generation, Pool
from ext_authz.server.sources import Rejected
from tests.unit.server.test_servers import settings


class FakeWorker:
    """Ready at once, unless the world says otherwise. Everything that happens to one is written down in order."""

    world: World

    def __init__(self, number: int, generation: int, process: object, end: socket.socket, differences: object) -> None:
        self.number, self.generation, self.pid = number, generation, len(self.world.all) + 1
        self.died: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.report = Report()
        self.not_replaced = ""
        self.listened_for = -math.inf
        self.hangs = False
        end.close()
        self.world.all.append(self)
        self._tell("starts")

    @property
    def end(self) -> str:
        return f"worker {self.number} of generation {self.generation} ended"

    @property
    def serves(self) -> bool:
        return self.report.listening and not self.died.done()

    def listened(self) -> float:
        return self.listened_for

    async def until_ready(self) -> None:
        if self.world.failure and self.number >= self.world.failing:
            raise self.world.failure
        self.report = Report(up=dict(self.world.up))

    async def until(self, condition: Callable[[], bool], seconds: float) -> bool:
        return condition()

    async def listen(self, listener: socket.socket | None) -> None:
        assert listener is not None
        self.inode = os.fstat(listener.fileno()).st_ino
        self._tell("listens")
        self.report = Report(listening=True, up=dict(self.world.up))

    async def leave(self) -> None:
        self._tell("leaves")

    async def stop(self, seconds: float) -> None:
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
        self.failing = 1
        """The first place in which it happens."""
        self.none_left = False
        """No process can be started, and no socket opened."""
        self.up = {"redis": True}
        self.over = asyncio.Event()
        self.settings = settings(directory, workers=workers)
        self.pool = Pool(module.H2CORN, "no:factory", self.over)

    async def spawned(self, *_: object) -> tuple[object, socket.socket]:
        if self.none_left:
            raise OSError("too many open files")
        return object(), socket.socket()

    def serving(self) -> list[int]:
        """The generation in each place, 0 where nobody serves."""
        return [worker.generation if worker.serves else 0 for worker in self.pool.workers]

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not condition():  # noqa: ASYNC110 - the state of fakes
                await asyncio.sleep(0.001)

    async def renew(self, accept: Accept | None = None) -> None:
        async def accepted(_: object) -> None:
            """Whatever it is."""

        await self.pool.renew(Generation(2, self.settings), accept or accepted)


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    world = World(tmp_path)
    monkeypatch.setattr(FakeWorker, "world", world, raising=False)
    monkeypatch.setattr(module, "WorkerProcess", FakeWorker)
    monkeypatch.setattr(module, "spawned", world.spawned)
    monkeypatch.setattr("ext_authz.observability.metric_files.forget", lambda _: None)
    monkeypatch.setattr("ext_authz.server.ports.bound", lambda *_, **__: socket.socket())
    monkeypatch.setattr(restarts, "_SHORTEST", 0.001)
    monkeypatch.setattr(restarts, "_LONGEST", 0.001)
    await world.pool.start(Generation(1, world.settings))
    assert world.serving() == [1, 1]
    world.events.clear()
    yield world
    world.over.set()
    await world.pool.stop(5, asyncio.Event())


async def test_the_next_listens_before_the_one_before_stops(world: World) -> None:
    await world.renew()
    await world.until(lambda: world.events.count("1/1 stops") == 1)
    order = [each for each in world.events if each.startswith("1/")]
    assert order == ["1/2 starts", "1/2 listens", "1/1 leaves", "1/1 stops"]
    assert world.serving() == [2, 2]


async def test_a_worker_that_cannot_start_changes_nothing(world: World) -> None:
    world.failure = Rejected("bad")
    with pytest.raises(Rejected, match="bad"):
        await world.renew()
    assert world.serving() == [1, 1]
    assert all(worker.died.done() for worker in world.all if worker.generation == 2)


async def test_what_is_not_accepted_leaves_all_as_it_was(world: World) -> None:
    async def refuse(_: object) -> None:
        raise Rejected("no")

    with pytest.raises(Rejected):
        await world.renew(refuse)
    assert world.serving() == [1, 1]


async def test_it_must_be_able_to_do_what_the_others_can(world: World) -> None:
    world.up = {"redis": False, "jwks:new": False}
    with pytest.raises(Rejected, match="cannot use redis yet"):
        await world.renew()
    world.up = {"redis": True, "jwks:new": False}
    await world.renew()
    assert world.serving() == [2, 2]


async def test_without_a_process_all_stays_as_it_was(world: World) -> None:
    world.none_left = True
    with pytest.raises(Rejected, match="too many open files"):
        await world.renew()
    assert world.serving() == [1, 1]


async def test_the_other_places_follow_or_are_left_until_later(world: World) -> None:
    world.failure, world.failing = Rejected("no memory", again=True), 2
    await world.renew()
    assert await world.pool.fill() == ["no memory"]
    assert world.serving() == [2, 1]
    world.failure = None
    assert await world.pool.fill() == []
    assert world.serving() == [2, 2]
    assert world.all[0].inode == world.all[2].inode, "the place keeps its socket"


class TestDeaths:
    @pytest.fixture
    async def kept(self, world: World, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
        monkeypatch.setattr(module, "_OBSERVED_EVERY", 0.001)
        self.keeping = asyncio.gather(*(world.pool.keep(place) for place in range(2)))
        yield world
        world.over.set()
        await asyncio.wait({self.keeping})

    async def test_a_dead_worker_is_replaced(self, kept: World) -> None:
        before = kept.all[1].inode
        kept.all[1].kill()
        await kept.until(lambda: kept.serving() == [1, 1] and len(kept.all) == 3)
        assert kept.all[2].inode != before, "nothing waits in the socket of one that died"

    async def test_while_nobody_serves_connections_wait_in_the_sockets(self, kept: World) -> None:
        before = [worker.inode for worker in kept.all]
        for worker in kept.all[:2]:
            worker.kill()
        await kept.until(lambda: kept.serving() == [1, 1])
        assert {worker.inode for worker in kept.all[2:]} <= set(before)

    async def test_without_a_process_it_is_tried_again(self, kept: World) -> None:
        kept.none_left = True
        kept.all[1].kill()
        await kept.until(lambda: kept.pool.workers[1].not_replaced == "too many open files")
        kept.none_left = False
        await kept.until(lambda: kept.serving() == [1, 1])

    async def test_one_that_hangs_is_killed(self, kept: World, caplog: pytest.LogCaptureFixture) -> None:
        kept.all[1].hangs = True
        await kept.until(lambda: len(kept.all) == 3 and kept.serving() == [1, 1])
        assert "a worker hangs: killed" in caplog.messages

    async def test_a_death_is_noticed_while_the_one_before_drains(self, kept: World) -> None:
        drained = asyncio.Event()

        async def drains(_: float) -> None:
            await drained.wait()

        for worker in kept.all:
            worker.stop = drains  # type: ignore[method-assign, assignment]
        await kept.renew()
        kept.all[2].kill()
        await kept.until(lambda: kept.serving() == [2, 2] and len(kept.all) == 5)
        drained.set()

    async def test_a_change_and_a_death_at_once_leave_one_worker(self, kept: World) -> None:
        """Whichever comes first, the place is taken once."""
        kept.all[0].kill()
        await kept.renew()
        await kept.pool.fill()
        await kept.until(lambda: kept.serving() == [2, 2])
        await kept.until(lambda: [worker for worker in kept.all if not worker.died.done()] == kept.all[-2:])

    async def test_who_waited_for_the_place_does_not_bring_back_the_generation_before(self, kept: World) -> None:
        """The worker dies while its successor starts: its replacement waits until the change has taken the place."""
        waiting = kept.pool._places[0]

        async def accept(_: object) -> None:
            kept.all[0].kill()
            await kept.until(lambda: bool(waiting._waiters))

        await kept.renew(accept)
        await kept.until(lambda: not waiting.locked())
        assert [worker.generation for worker in kept.all] == [1, 1, 2, 2]

    async def test_a_crash_loop_ends_with_the_last_error(self, kept: World) -> None:
        kept.failure = Rejected("no memory left", again=True)
        kept.all[0].kill()
        with pytest.raises(GivenUp, match=f"no memory left, and it was the end number {MOST + 1}"):
            await self.keeping
        assert kept.pool.workers[0].not_replaced == "no memory left"

    async def test_one_that_served_for_a_while_is_no_crash_loop(self, kept: World) -> None:
        for number in range(3 * MOST):
            kept.all[-1].listened_for = module.STABLE_SECONDS + 1
            kept.all[-1].kill()
            await kept.until(lambda number=number: len(kept.all) == number + 3 and kept.serving() == [1, 1])  # type: ignore[misc]

    async def test_a_file_that_was_broken_since_is_none_while_others_serve(
        self, kept: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "_MISCONFIGURED_SECONDS", 0.001)
        kept.failure = Rejected("TOLLGATE_JWKS_CA_FILE: cannot read it")
        kept.all[1].kill()
        await kept.until(lambda: len(kept.all) > 3 * MOST)
        kept.failure = None
        await kept.until(lambda: kept.serving() == [1, 1])

    async def test_the_end_is_no_crash(self, kept: World, caplog: pytest.LogCaptureFixture) -> None:
        """Whoever starts at that time is killed."""
        kept.failure = Rejected("was killed", again=True)
        kept.all[1].kill()
        kept.over.set()
        await self.keeping
        assert "a worker did not start" not in caplog.messages


async def test_at_the_end_no_worker_is_left(world: World) -> None:
    world.pool.announce_drain()
    await world.pool.stop(5, asyncio.Event())
    assert all(worker.died.done() for worker in world.all)
    assert sorted(world.events) == ["1/1 drains", "1/1 stops", "2/1 drains", "2/1 stops"]
