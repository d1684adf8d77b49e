"""A change is seen once, when it is over, however it came about."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ext_authz.errors import ConfigError
from ext_authz.server import sources
from ext_authz.server.sources import Input, copied, in_memory, remove


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "policy.yaml"
    file.write_text("one")
    return file


def looks(watch: Input, times: int = 3) -> list[bool]:
    return [watch.changed() for _ in range(times)]


def test_nothing_happened(file: Path) -> None:
    assert looks(Input(0, file)) == [False, False, False]


def test_a_change_is_seen_once_and_not_before_it_was_seen_twice(file: Path) -> None:
    watch = Input(0, file)
    file.write_text("two")
    assert looks(watch) == [False, True, False]


def test_what_changes_all_the_time_is_being_written(file: Path) -> None:
    watch = Input(0, file)
    for number in range(5):
        file.write_text(f"part {number}")
        assert not watch.changed()
    assert looks(watch, 1) == [True]


def test_the_same_size_within_the_same_tick_of_the_clock(file: Path) -> None:
    watch = Input(0, file)
    at = file.stat().st_mtime_ns
    file.write_text("two")
    os.utime(file, ns=(at, at))
    assert looks(watch, 2) == [False, True]


def test_the_same_size_and_time_of_modification_long_ago(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where files are installed with one time for all of them."""
    monkeypatch.setattr(sources, "_FRESH", -3600)
    os.utime(file, (1, 1))
    watch = Input(0, file)
    file.write_text("two")
    os.utime(file, (1, 1))
    assert looks(watch, 2) == [False, True]


def test_names_that_are_no_text(tmp_path: Path) -> None:
    watch = Input(0, tmp_path)
    Path(os.fsdecode(bytes(tmp_path) + b"/\xff.yaml")).touch()
    assert looks(watch) == [False, True, False]


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "policy.yaml")
    for path in (tmp_path, tmp_path / "policy.yaml"):
        assert looks(Input(0, path)) == [False, False, False]


def test_touched_is_not_changed(file: Path) -> None:
    watch = Input(0, file)
    os.utime(file, ns=(1, 1))
    assert looks(watch) == [False, False, False]


def test_back_to_what_it_was_is_no_change(file: Path) -> None:
    watch = Input(0, file)
    file.write_text("two")
    assert not watch.changed()
    file.write_text("one")
    assert looks(watch) == [False, False, False]


def test_gone_and_back(file: Path) -> None:
    watch = Input(0, file)
    file.unlink()
    assert looks(watch) == [False, True, False]
    file.write_text("one")
    assert looks(watch) == [False, True, False]


def test_what_was_read_on_demand_is_no_news(file: Path) -> None:
    watch = Input(0, file)
    file.write_text("two")
    watch.read()
    assert looks(watch) == [False, False, False]


def test_an_old_file_is_not_read_again(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_FRESH", -3600)
    watch = Input(0, file)
    watch.changed()
    monkeypatch.setattr(sources, "_content", lambda _: pytest.fail("read"))
    monkeypatch.setattr("ext_authz.server.sources._includes", lambda _: False)
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
        watch = Input(0, path)
        (mounted / "..data").unlink()
        (mounted / "..data").symlink_to("..2")
        assert looks(watch) == [False, True, False]
        (mounted / "..data").unlink()
        (mounted / "..data").symlink_to("..1")


@pytest.mark.parametrize("where", ["new.yaml", "teams/a.yaml"])
def test_files_of_a_directory_come_and_go(tmp_path: Path, where: str) -> None:
    (tmp_path / "teams").mkdir()
    watch = Input(0, tmp_path)
    (tmp_path / where).write_text("more")
    assert looks(watch) == [False, True, False]
    (tmp_path / where).unlink()
    assert looks(watch) == [False, True, False]


def test_included_files_count(tmp_path: Path, file: Path) -> None:
    file.write_text("include: [teams/*.yaml]\n")
    (tmp_path / "teams").mkdir()
    watch = Input(0, file)
    (tmp_path / "teams" / "a.yaml").write_text("more")
    assert looks(watch) == [False, True, False]


def test_neighbours_do_not(tmp_path: Path, file: Path) -> None:
    watch = Input(0, file)
    (tmp_path / "another.yaml").write_text("more")
    assert looks(watch) == [False, False, False]


def test_a_link_back_up_has_an_end(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("one")
    (tmp_path / "loop").symlink_to(".")
    watch = Input(0, tmp_path)
    (tmp_path / "a.yaml").write_text("two")
    assert looks(watch) == [False, True, False]


def test_several_files_are_one_thing(tmp_path: Path, file: Path) -> None:
    key = tmp_path / "key"
    key.write_text("one")
    watch = Input(0, file, key)
    key.write_text("two")
    assert looks(watch) == [False, True, False]


class TestCopies:
    def test_a_file_stays_as_it_was(self, tmp_path: Path, file: Path) -> None:
        copy = copied(file, tmp_path / "copy")
        file.write_text("two")
        assert copy.read_text() == "one"

    def test_a_directory_with_all_below_it(self, tmp_path: Path) -> None:
        (tmp_path / "policy" / "teams").mkdir(parents=True)
        (tmp_path / "policy" / "teams" / "a.yaml").write_text("more")
        (tmp_path / "policy" / ".hidden").write_text("an editor's")
        copy = copied(tmp_path / "policy", tmp_path / "copy")
        assert [path.name for path in copy.rglob("*")] == ["teams", "a.yaml"]

    def test_included_files_come_along(self, tmp_path: Path, file: Path) -> None:
        file.write_text("include: [teams/*.yaml]\n")
        (tmp_path / "teams").mkdir()
        (tmp_path / "teams" / "a.yaml").write_text("more")
        assert (copied(file, tmp_path / "copy").parent / "teams" / "a.yaml").read_text() == "more"

    def test_what_leads_out_still_does(self, tmp_path: Path) -> None:
        """The reader of the policy refuses it; a copy would hide that."""
        (tmp_path / "policy").mkdir()
        (tmp_path / "elsewhere").write_text("not ours")
        (tmp_path / "policy" / "a.yaml").symlink_to(tmp_path / "elsewhere")
        copy = copied(tmp_path / "policy", tmp_path / "copy")
        assert (copy / "a.yaml").resolve() == tmp_path / "elsewhere"

    @pytest.mark.parametrize("name", ["gone.yaml", "pipe.yaml"])
    def test_no_file_of_a_directory_is_left_out(self, tmp_path: Path, name: str) -> None:
        """A policy without it may be valid, and is another one."""
        policy = tmp_path / "policy"
        policy.mkdir()
        os.mkfifo(policy / "pipe.yaml")
        (policy / "gone.yaml").symlink_to("nowhere")
        (policy / ({"gone.yaml", "pipe.yaml"} - {name}).pop()).unlink()
        with pytest.raises(ConfigError, match=rf"{name}: cannot be read \((No such file|not a regular file)"):
            copied(policy, tmp_path / "copy")

    def test_what_is_no_policy_is_left_out_where_it_cannot_be_read(self, tmp_path: Path, file: Path) -> None:
        file.write_text("include: [teams/*.yaml]\n")
        os.mkfifo(tmp_path / "admin.sock")
        assert [path.name for path in copied(file, tmp_path / "copy").parent.iterdir()] == ["policy.yaml"]

    def test_a_disk_that_is_full_is_not_the_fault_of_a_file(self, file: Path) -> None:
        with pytest.raises(OSError, match="Not a directory"):
            copied(file, file / "directory")

    def test_what_cannot_be_read_is_a_sentence(self, tmp_path: Path) -> None:
        (tmp_path / "a.yaml").mkdir()
        (tmp_path / "b.yaml").symlink_to("a.yaml")
        (tmp_path / "policy.yaml").symlink_to("policy.yaml")
        with pytest.raises(ConfigError, match=r"policy\.yaml: cannot be read"):
            copied(tmp_path / "policy.yaml", tmp_path / "copy")


def test_a_file_in_memory_stays_as_it_was_and_is_on_no_disk(file: Path) -> None:
    copy = in_memory(file)
    file.write_text("two")
    assert copy.read_text() == "one"
    remove(copy)
    assert not copy.exists()
