"""One `up` per state directory; what a killed one left is found by its mark and removed."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from devstack.stack import directory
from devstack.stack.directory import MARK, AlreadyUp, StateDirectory, clean, remove_shared_memory
from ext_authz.errors import ConfigError
from ext_authz.running_stack import LOCK
from tests.services import wait_for


@pytest.fixture
def state(tmp_path: Path) -> StateDirectory:
    return StateDirectory(tmp_path / "state")


def test_a_second_holder_is_refused_with_the_first_ones_process_id(state: StateDirectory) -> None:
    with state.locked():
        assert state.holder() == os.getpid()
        assert (state.root / LOCK).stat().st_mode & 0o777 == 0o600
        with pytest.raises(AlreadyUp, match=rf"already runs \(process {os.getpid()}\)"), state.locked():
            pytest.fail("two hold one lock")
    assert state.holder() == 0
    with state.locked():
        assert state.holder() == os.getpid()


def test_a_directory_that_does_not_exist_has_no_holder(state: StateDirectory) -> None:
    assert state.holder() == 0


def test_two_directories_are_two_stacks(tmp_path: Path) -> None:
    one, other = StateDirectory(tmp_path / "one"), StateDirectory(tmp_path / "other")
    assert one.mark != other.mark
    with one.locked(), other.locked():
        assert one.holder() == other.holder() == os.getpid()


def test_a_directory_that_cannot_be_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="TOLLGATE_STATE_DIR: cannot write to"):
        StateDirectory(tmp_path / "file" / "state").create()


def test_parts_are_closed_to_others(state: StateDirectory) -> None:
    state.create()
    assert state.part("redis").stat().st_mode & 0o777 == 0o700


def test_logs_of_the_last_run_stay_beside_the_new_ones(state: StateDirectory) -> None:
    state.create()
    state.log("redis").write_text("last run")
    state.rotate_logs()
    assert not state.log("redis").exists()
    assert (state.root / "log" / "redis.log.old").read_text() == "last run"


@pytest.fixture
def sleepers() -> Iterator[list[subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for sleeper in started:
        sleeper.kill()
        sleeper.wait()


def test_only_what_bears_our_mark_is_ended(
    state: StateDirectory, tmp_path: Path, sleepers: list[subprocess.Popen[bytes]]
) -> None:
    marks = [state.mark, StateDirectory(tmp_path / "other").mark]
    sleepers += [subprocess.Popen(["sleep", "62"], env={**os.environ, MARK: mark}) for mark in marks]
    wait_for(lambda: all(psutil.Process(sleeper.pid).name() == "sleep" for sleeper in sleepers))
    (line,) = clean(state)
    assert line == f"ended sleep (process {sleepers[0].pid}), left by an earlier run"
    assert sleepers[0].poll() is not None
    assert sleepers[1].poll() is None


def test_the_lock_file_of_a_dead_postgres_is_removed(state: StateDirectory) -> None:
    data = state.root / "postgres" / "data"
    data.mkdir(parents=True)
    (data / "postmaster.pid").write_text(f"{os.getpid()}\n")
    clean(state)
    assert list(data.iterdir()) == []


def test_only_our_shared_memory_is_removed(state: StateDirectory) -> None:
    ours = Path("/dev/shm") / f"{state.shared_memory_prefix}region"
    others = Path("/dev/shm") / f"tollgate_test_{os.getpid()}"
    try:
        ours.touch()
        others.touch()
        remove_shared_memory(state)
        assert not ours.exists()
        assert others.exists()
    finally:
        ours.unlink(missing_ok=True)
        others.unlink(missing_ok=True)


def test_a_path_with_blanks_has_a_plain_one_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory, "private_directory", lambda: tmp_path / f"tollgate-{os.geteuid()}")
    state = StateDirectory(tmp_path / "a place" / "zürich")
    plain = state.plain_part("triton")
    assert re.fullmatch(r"tollgate-\d+/triton-[0-9a-f]{12}", str(plain.relative_to(tmp_path)))
    assert {path.stat().st_mode & 0o777 for path in (plain, plain.parent)} == {0o700}
    assert state.plain_part("triton") == plain


def test_a_short_plain_path_needs_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(directory, "_PLAIN", re.compile(re.escape(str(tmp_path))))
    assert StateDirectory(tmp_path).plain_part("triton") == tmp_path / "triton"


def test_a_place_that_others_can_enter_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory, "private_directory", lambda: tmp_path / f"tollgate-{os.geteuid()}")
    place = tmp_path / f"tollgate-{os.geteuid()}"
    place.mkdir(mode=0o755)
    with pytest.raises(ConfigError, match="is not a directory that only this user can enter"):
        StateDirectory(Path("/with a blank")).plain_part("triton")
    place.rmdir()
    place.symlink_to(tmp_path)
    with pytest.raises(ConfigError, match="is not a directory that only this user can enter"):
        StateDirectory(Path("/with a blank")).plain_part("triton")
