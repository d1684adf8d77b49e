"""A change is seen once, when it is over, however it came about."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ext_authz.reload.watch import Watch


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "policy.yaml"
    file.write_text("one")
    return file


def looks(watch: Watch, times: int = 3) -> list[bool]:
    return [watch.changed() for _ in range(times)]


def test_nothing_happened(file: Path) -> None:
    assert looks(Watch(file)) == [False, False, False]


def test_a_change_is_seen_once_and_not_before_it_was_seen_twice(file: Path) -> None:
    watch = Watch(file)
    file.write_text("two")
    assert looks(watch) == [False, True, False]


def test_what_changes_all_the_time_is_being_written(file: Path) -> None:
    watch = Watch(file)
    for number in range(5):
        file.write_text(f"part {number}")
        assert not watch.changed()
    assert looks(watch, 1) == [True]


def test_the_same_size_within_the_same_tick_of_the_clock(file: Path) -> None:
    watch = Watch(file)
    at = file.stat().st_mtime_ns
    file.write_text("two")
    os.utime(file, ns=(at, at))
    assert looks(watch, 2) == [False, True]


def test_touched_is_not_changed(file: Path) -> None:
    watch = Watch(file)
    os.utime(file, ns=(1, 1))
    assert looks(watch) == [False, False, False]


def test_back_to_what_it_was_is_no_change(file: Path) -> None:
    watch = Watch(file)
    file.write_text("two")
    assert not watch.changed()
    file.write_text("one")
    assert looks(watch) == [False, False, False]


def test_gone_and_back(file: Path) -> None:
    watch = Watch(file)
    file.unlink()
    assert looks(watch) == [False, True, False]
    file.write_text("one")
    assert looks(watch) == [False, True, False]


def test_what_was_read_on_demand_is_no_news(file: Path) -> None:
    watch = Watch(file)
    file.write_text("two")
    watch.take_note()
    assert looks(watch) == [False, False, False]


def test_an_old_file_is_not_read_again(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.utime(file, (1, 1))
    watch = Watch(file)
    watch.changed()
    monkeypatch.setattr(Path, "read_bytes", lambda _: pytest.fail("read"))
    monkeypatch.setattr("ext_authz.reload.watch._includes", lambda _: False)
    assert looks(watch) == [False, False, False]


def test_a_config_map_is_swapped(tmp_path: Path) -> None:
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    for name, content in (("..1", "one"), ("..2", "two")):
        (mounted / name).mkdir()
        (mounted / name / "a.yaml").write_text(content)
    (mounted / "..data").symlink_to("..1")
    (mounted / "a.yaml").symlink_to("..data/a.yaml")
    for path in (mounted, mounted / "a.yaml"):
        watch = Watch(path)
        (mounted / "..data").unlink()
        (mounted / "..data").symlink_to("..2")
        assert looks(watch) == [False, True, False]
        (mounted / "..data").unlink()
        (mounted / "..data").symlink_to("..1")


@pytest.mark.parametrize("where", ["new.yaml", "teams/a.yaml"])
def test_files_of_a_directory_come_and_go(tmp_path: Path, where: str) -> None:
    (tmp_path / "teams").mkdir()
    watch = Watch(tmp_path)
    (tmp_path / where).write_text("more")
    assert looks(watch) == [False, True, False]
    (tmp_path / where).unlink()
    assert looks(watch) == [False, True, False]


def test_included_files_count(tmp_path: Path, file: Path) -> None:
    file.write_text("include: [teams/*.yaml]\n")
    (tmp_path / "teams").mkdir()
    watch = Watch(file)
    (tmp_path / "teams" / "a.yaml").write_text("more")
    assert looks(watch) == [False, True, False]


def test_neighbours_do_not(tmp_path: Path, file: Path) -> None:
    watch = Watch(file)
    (tmp_path / "another.yaml").write_text("more")
    assert looks(watch) == [False, False, False]


def test_a_link_back_up_has_an_end(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("one")
    (tmp_path / "loop").symlink_to(".")
    watch = Watch(tmp_path)
    (tmp_path / "a.yaml").write_text("two")
    assert looks(watch) == [False, True, False]
