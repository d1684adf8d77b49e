"""From a changed file into every worker, or into none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from ext_authz.reload import rollout as module
from ext_authz.reload.compiler import Rejected
from ext_authz.reload.rollout import Holding, Order, Role, Rollout
from tests.fakes import FakeClock


class FakeWorkers:
    """Two workers that take what they are told, unless the test makes one refuse."""

    def __init__(self) -> None:
        self.held = [Holding("old"), Holding("old")]
        self.orders: list[Order] = []
        self.refuses: set[int] = set()

    def order(self, order: Order) -> None:
        self.orders.append(order)
        assert Path(order.file).read_text() == order.hash
        for index, holding in enumerate(self.held):
            refused = index in self.refuses
            self.held[index] = Holding(holding.hash if refused else order.hash, order.number, "no room" * refused)

    def holding(self, role: Role) -> Sequence[Holding]:
        return self.held


class World:
    """A rollout whose compiler takes the content of the file for its hash, and `bad...` for faults."""

    def __init__(self, directory: Path, role: Role = Role.POLICY) -> None:
        self.file = directory / "policy.yaml"
        self.file.write_text("old")
        self.directory = directory
        self.clock = FakeClock()
        self.workers = FakeWorkers()
        self.rollout = Rollout(
            role, self.file, self.workers, directory=directory, clock=self.clock, compiler=self._compile
        )

    async def _compile(self, path: Path, target: Path) -> str:
        return compiled(path, target)


def compiled(path: Path, target: Path) -> str:
    digest = path.read_text()
    if digest.startswith("bad"):
        raise Rejected([f"{digest}: fault {number}" for number in (1, 2)])
    target.write_text(digest)
    return digest


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def test_a_good_policy_reaches_every_worker(world: World) -> None:
    world.file.write_text("new")
    world.clock.advance(5)
    outcome = await world.rollout.reload()
    assert (outcome.hash, outcome.changed, outcome.faults) == ("new", True, ())
    assert world.rollout.status() == {
        "path": str(world.file),
        "hash": "new",
        "since": world.clock.now(),
        "workers": ["new", "new"],
    }
    assert world.rollout.short() == {"hash": "new"}


async def test_no_compiled_file_is_left(world: World) -> None:
    for content in ("new", "bad", "old"):
        world.file.write_text(content)
        await world.rollout.reload()
    assert list(world.directory.iterdir()) == [world.file]


async def test_what_is_in_force_already_is_not_ordered(world: World) -> None:
    outcome = await world.rollout.reload()
    assert (outcome.hash, outcome.changed) == ("old", False)
    assert not world.workers.orders


async def test_a_bad_policy_reaches_nobody(world: World) -> None:
    world.file.write_text("bad")
    world.clock.advance(5)
    outcome = await world.rollout.reload()
    assert (outcome.hash, outcome.faults) == ("old", ("bad: fault 1", "bad: fault 2"))
    assert not world.workers.orders
    assert world.rollout.short() == {"hash": "old", "rejected": "the file is not good: tollgate policy status says why"}
    assert world.rollout.status()["rejected_at"] == world.clock.now()


async def test_a_rejection_is_forgotten_with_the_next_good_policy(world: World) -> None:
    world.file.write_text("bad")
    await world.rollout.reload()
    world.file.write_text("old")
    await world.rollout.reload()
    assert world.rollout.short() == {"hash": "old"}


async def test_a_worker_that_refuses_is_named(world: World) -> None:
    world.workers.refuses = {1}
    world.file.write_text("new")
    outcome = await world.rollout.reload()
    assert outcome.faults == ("worker 2 keeps policy old: no room",)
    assert world.rollout.hashes() == ["new", "old"]


async def test_a_worker_that_says_nothing_is_not_waited_for_for_ever(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world.workers, "order", lambda order: world.clock.advance(60))
    world.file.write_text("new")
    outcome = await world.rollout.reload()
    assert outcome.faults[0] == "worker 1 keeps policy old: it has not answered yet"


async def running(world: World, until: Callable[[], bool], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let it look at the file again and again until the condition holds."""
    monkeypatch.setattr(module, "POLL", 0.002)
    stop = asyncio.Event()
    task = asyncio.create_task(world.rollout.run(stop))
    async with asyncio.timeout(5):
        while not until():  # noqa: ASYNC110 - what a thread finds on disk
            await asyncio.sleep(0.001)
    stop.set()
    await task


async def test_a_change_of_the_file_is_enough(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.file.write_text("new")
    await running(world, lambda: world.rollout.hashes() == ["new"], monkeypatch)


async def test_a_bad_file_is_tried_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = 0

    async def fail(path: Path, target: Path) -> str:
        nonlocal tried
        tried += 1
        raise Rejected(["bad"])

    world.rollout._compile = fail
    world.file.write_text("bad")
    looked = 0
    look = world.rollout._watch.changed

    def counted() -> bool:
        nonlocal looked
        looked += 1
        return look()

    monkeypatch.setattr(world.rollout._watch, "changed", counted)
    await running(world, lambda: looked > 10, monkeypatch)
    assert tried == 1


async def test_who_refused_is_asked_again_after_a_while(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.workers.refuses = {1}
    world.file.write_text("new")
    await world.rollout.reload()
    world.workers.refuses = set()
    world.clock.advance(9)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await running(world, lambda: world.rollout.hashes() == ["new"], monkeypatch)
    world.clock.advance(2)
    await running(world, lambda: world.rollout.hashes() == ["new"], monkeypatch)
    assert world.rollout.short() == {"hash": "new"}


async def test_the_shadow_is_brought_in_without_a_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path, Role.SHADOW)
    world.workers.held = [Holding(), Holding()]
    await running(world, lambda: world.rollout.hashes() == ["old"], monkeypatch)
