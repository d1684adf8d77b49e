"""A change comes into force whole or not at all, and what keeps it out is reported."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest
from msgspec.structs import replace

from ext_authz.errors import ConfigError
from ext_authz.report import utc
from ext_authz.server import generations as module
from ext_authz.server.generations import Generations
from ext_authz.server.messages import Difference, Report
from ext_authz.server.pool import Accept, Generation, Pool
from ext_authz.server.process import WorkerProcess
from ext_authz.server.sources import Rejected, Role, copied
from ext_authz.settings import Settings
from tests.fakes import FakeClock
from tests.unit.server.test_servers import settings

FIXED = "cannot change while tollgate serve runs: restart it, or write the former value"


class FakeWorker:
    def __init__(self, report: Report) -> None:
        self.report = report


class FakePool:
    """Its workers hold what stands in the files; a file that begins with `bad` is no policy."""

    def __init__(self) -> None:
        self.workers: list[FakeWorker] = []
        self.started: list[Generation] = []
        self.failure: Exception | None = None
        self.left: list[str] = []
        self.over = asyncio.Event()
        self.differences: list[Difference] = []

    @property
    def generation(self) -> Generation:
        return self.started[-1]

    def _worker(self, generation: Generation) -> WorkerProcess:
        policy, other = generation.settings.policy, generation.settings.candidate_policy
        if policy.read_text().startswith("bad"):
            raise Rejected(f"{policy}:1: first", f"{policy}:2: second", role=Role.POLICY)
        report = Report({Role.POLICY: policy.read_text()})
        if other is not None and other.read_text().startswith("bad"):
            report = replace(report, candidate_faults=(f"{other}:1: wrong",))
        elif other is not None:
            report.policies[Role.CANDIDATE] = other.read_text()
        return cast("WorkerProcess", FakeWorker(report))

    async def start(self, generation: Generation) -> None:
        self.workers = [cast("FakeWorker", self._worker(generation)) for _ in range(2)]
        self.started.append(generation)

    async def renew(self, generation: Generation, accept: Accept) -> None:
        worker = self._worker(generation)
        await accept(worker)
        if self.failure:
            raise self.failure
        self.workers[0] = cast("FakeWorker", worker)
        self.started.append(generation)

    async def fill(self) -> list[str]:
        if not self.left:
            self.workers[1] = self.workers[0]
        return self.left


class World:
    """Generations over files of a test; `candidate` may be there."""

    def __init__(self, directory: Path, *, candidate: str = "", env_file: Path | None = None) -> None:
        self.directory = directory
        self.chosen: dict[str, object] = {}
        self.policy, self.candidate = directory / "policy.yaml", directory / "candidate.yaml"
        if candidate:
            self.candidate.write_text(candidate)
            self.chosen["candidate_policy"] = self.candidate
        self.policy.write_text("old")
        self.clock = FakeClock()
        self.pool = FakePool()
        self.generations = Generations(cast("Pool", self.pool), self.read(), self.read, env_file, self.clock)

    def read(self) -> Settings:
        chosen = settings(self.directory, **self.chosen)
        self.policy.touch()
        return chosen

    async def start(self) -> World:
        await self.generations.start()
        self.generations._running = True
        return self


@pytest.fixture(autouse=True)
def private(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the copies go."""
    directory = tmp_path_factory.mktemp("private")
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(directory))
    return directory


@pytest.fixture
async def world(tmp_path: Path) -> World:
    return await World(tmp_path).start()


async def reloaded(world: World) -> dict[str, object]:
    changed = await world.generations.reload()
    assert changed is not None
    status = world.generations.status()
    return {role.value: outcome(role in changed, status.get(role, {})) for role in [*status, *changed]}


def outcome(changed: bool, status: dict[str, Any]) -> tuple[str, bool, tuple[str, ...]]:  # noqa: FBT001 - a test
    return status.get("hash", ""), changed, tuple(status.get("rejected", ()))


def iso(at: float) -> str:
    return utc(datetime.fromtimestamp(at, UTC))


async def test_a_good_policy_comes_into_force(world: World) -> None:
    world.policy.write_text("new")
    world.clock.advance(5)
    assert await reloaded(world) == {"policy": ("new", True, ())}
    assert world.generations.status() == {
        "policy": {"since": iso(world.clock.now()), "path": str(world.policy), "hash": "new", "workers": ["new", "new"]}
    }
    assert world.generations.short() == {"policy": {"hash": "new"}}
    assert world.generations.info() == {("policy", "new"): 2}


async def test_input_in_force_already_starts_no_worker(world: World) -> None:
    assert await reloaded(world) == {"policy": ("old", False, ())}
    assert len(world.pool.started) == 1


async def test_a_bad_policy_is_reported_by_its_own_name(world: World) -> None:
    world.policy.write_text("bad")
    faults = (f"{world.policy}:1: first", f"{world.policy}:2: second")
    assert await reloaded(world) == {"policy": ("old", False, faults)}
    assert world.generations.short()["policy"] == {
        "hash": "old",
        "rejected": "not in force: tollgate policy status says why",
    }


async def test_a_rejection_is_forgotten_with_the_next_good_policy(world: World) -> None:
    for content in ("bad", "old"):
        world.policy.write_text(content)
        await reloaded(world)
    assert world.generations.short() == {"policy": {"hash": "old"}}


async def test_workers_read_a_copy_and_no_other_copy_stays(world: World, private: Path) -> None:
    """One that replaces a dead worker starts with the policy in force, whatever the file holds by then."""
    for content in ("new", "bad", "newer"):
        world.policy.write_text(content)
        await reloaded(world)
    world.policy.write_text("bad")
    in_force = world.pool.generation.settings.policy
    assert in_force.read_text() == "newer"
    assert [path.name for path in await asyncio.to_thread(private.glob, "*")] == [in_force.parent.name]


async def test_what_changes_while_a_generation_starts_is_the_next_one(world: World) -> None:
    """Also when somebody has it read at once: the one under way is not taken for it."""
    starting, go_on = asyncio.Event(), asyncio.Event()
    renew = world.pool.renew

    async def slow(generation: Generation, accept: Accept) -> None:
        starting.set()
        await go_on.wait()
        await renew(generation, accept)

    world.pool.renew = slow  # type: ignore[method-assign]
    world.policy.write_text("new")
    first = asyncio.create_task(reloaded(world))
    await starting.wait()
    taken = world.generations._inputs[Role.POLICY].found
    world.policy.write_text("newer")
    second = asyncio.create_task(reloaded(world))
    while world.generations._inputs[Role.POLICY].found == taken:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    go_on.set()
    assert await first == {"policy": ("new", True, ())}
    assert await second == {"policy": ("newer", True, ())}


async def test_no_generation_starts_with_half_a_change(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def torn(policy: Path, into: Path) -> Path:
        policy.write_text("newer")
        return copied(policy, into)

    monkeypatch.setattr(module, "copied", torn)
    world.policy.write_text("new")
    assert await reloaded(world) == {"policy": ("old", False, (f"{world.policy}: was changed while it was read",))}
    monkeypatch.setattr(module, "copied", copied)
    assert await reloaded(world) == {"policy": ("newer", True, ())}


async def test_a_full_disk_is_not_the_fault_of_the_policy(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLL", 0.002)

    def full(policy: Path, into: Path) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device", str(into))

    monkeypatch.setattr(module, "copied", full)
    world.policy.write_text("new")
    assert "No space left on device" in str(await reloaded(world))
    monkeypatch.setattr(module, "copied", copied)
    world.clock.advance(11)
    await until(world, lambda: world.generations.info() == {("policy", "new"): 2})


async def test_a_bad_candidate_keeps_neither_itself_nor_the_policy_out(tmp_path: Path) -> None:
    world = await World(tmp_path, candidate="other").start()
    world.policy.write_text("new")
    world.candidate.write_text("bad")
    assert await reloaded(world) == {
        "policy": ("new", True, ()),
        "candidate": ("other", False, (f"{world.candidate}:1: wrong",)),
    }


async def test_a_bad_candidate_at_the_start_is_reported(tmp_path: Path) -> None:
    world = await World(tmp_path, candidate="bad").start()
    assert "rejected" in cast("dict[str, object]", world.generations.short()["candidate"])
    world.candidate.write_text("good")
    assert (await reloaded(world))["candidate"] == ("good", True, ())


async def test_what_the_file_is_not_to_blame_for_is_tried_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLL", 0.002)
    world.pool.failure = Rejected("killed", again=True)
    world.policy.write_text("new")
    assert (await reloaded(world))["policy"] == ("old", False, ("killed",))
    world.pool.failure = None
    world.clock.advance(11)
    await until(world, lambda: world.generations.info() == {("policy", "new"): 2})
    assert world.generations.short() == {"policy": {"hash": "new"}}


async def test_a_change_of_another_file_tries_it_again_too(tmp_path: Path) -> None:
    world = await World(tmp_path, candidate="other").start()
    world.pool.failure = Rejected("no keys yet", again=True)
    world.policy.write_text("new")
    assert (await reloaded(world))["policy"] == ("old", False, ("no keys yet",))
    world.pool.failure = None
    assert await world.generations._reload([Role.CANDIDATE]) is not None
    assert world.generations.info()["policy", "new"] == 2
    assert "rejected" not in str(world.generations.status())


async def test_a_worker_of_the_generation_before_is_not_left(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLL", 0.002)
    world.pool.left = ["worker 2 did not start"]
    world.policy.write_text("new")
    assert (await reloaded(world))["policy"] == ("new old", True, ())
    world.pool.left = []
    world.clock.advance(11)
    await until(world, lambda: world.generations.info() == {("policy", "new"): 2})


async def until(world: World, condition: Callable[[], bool]) -> None:
    """Let it look at the files until the condition holds."""
    stop = asyncio.Event()
    task = asyncio.create_task(world.generations.run(stop))
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - what a thread finds on disk
            await asyncio.sleep(0.001)
    stop.set()
    await task


async def test_what_the_end_keeps_from_starting_is_not_rejected(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.pool.over.set()
    world.pool.failure = Rejected("was killed", again=True)
    world.policy.write_text("new")
    assert await reloaded(world) == {"policy": ("old", False, ())}
    assert not caplog.records


async def test_a_change_of_the_file_or_a_signal_is_enough(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLL", 0.002)
    world.policy.write_text("new")
    await until(world, lambda: world.generations.info() == {("policy", "new"): 2})
    world.policy.write_text("newer")
    world.generations.asked.set()
    await until(world, lambda: world.generations.info() == {("policy", "newer"): 2})


class TestSettings:
    @pytest.fixture
    async def with_file(self, tmp_path: Path) -> World:
        (tmp_path / "env").write_text("TOLLGATE_LOG_DECISIONS=false")
        return await World(tmp_path, env_file=tmp_path / "env").start()

    async def change(self, world: World, **changes: object) -> dict[str, object]:
        world.chosen |= changes
        (world.directory / "env").write_text(f"{changes}")
        return await reloaded(world)

    async def test_what_workers_go_by_changes(self, with_file: World) -> None:
        assert (await self.change(with_file, log_decisions=True))["settings"] == ("", True, ())
        assert with_file.pool.generation.settings.log_decisions

    @pytest.mark.parametrize("name", ["listen_port", "tls_client_ca"])
    async def test_what_others_go_by_does_not(self, with_file: World, name: str) -> None:
        """Nor where files are: those of the start are watched."""
        file = with_file.directory / "pem"
        with_file.chosen |= dict.fromkeys(("tls_cert", "tls_key"), file)
        with_file.generations._settings = with_file.read()
        changes = {"listen_port": 1234, "tls_client_ca": file}
        answer = (await self.change(with_file, **{name: changes[name]}))["settings"]
        assert answer == ("", False, (f"TOLLGATE_{name.upper()}: {FIXED}",))
        assert len(with_file.pool.started) == 1

    async def test_a_wrong_one_leaves_what_is_in_force(self, with_file: World, monkeypatch: pytest.MonkeyPatch) -> None:
        def wrong() -> Settings:
            raise ConfigError("TOLLGATE_DRAIN_TIMEOUT: wrong")

        monkeypatch.setattr(with_file.generations, "_read", wrong)
        assert (await self.change(with_file))["settings"] == ("", False, ("TOLLGATE_DRAIN_TIMEOUT: wrong",))

    async def test_tls_files_must_be_whole(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        world = World(tmp_path)
        files = {name: tmp_path / name for name in ("tls_cert", "tls_key")}
        for file in files.values():
            file.write_text("one")
        world.chosen |= files
        world.generations = Generations(cast("Pool", world.pool), world.read(), world.read, None, world.clock)
        await world.start()
        files["tls_key"].write_text("two")
        assert (await reloaded(world))["tls"][1:][0] is False  # type: ignore[index]
        assert "rejected" in cast("dict[str, object]", world.generations.status()[Role.TLS])
        world.policy.write_text("new")
        assert (await reloaded(world))["policy"] == ("new", True, ()), "it has nothing to do with TLS"
        monkeypatch.setattr("ext_authz.server.generations.ensure_tls_usable", lambda _: None)
        in_force = world.pool.generation.settings
        assert in_force.tls_key is not None
        assert in_force.tls_key.read_text() == "one", "what replaces a dead worker has what is in force"
        files["tls_key"].write_text("three")
        assert (await reloaded(world))["tls"] == ("", True, ())
        in_force = world.pool.generation.settings
        assert in_force.tls_key is not None
        assert in_force.tls_key.read_text() == "three"


async def test_the_latest_differences_come_first(world: World) -> None:
    older, newer = (Difference(at, *("x" * 12)) for at in (1.0, 2.0))
    world.pool.differences = [newer, older]
    listed = cast("list[dict[str, object]]", world.generations.candidate()["differences"])
    assert [each["at"] for each in listed] == [2.0, 1.0]
