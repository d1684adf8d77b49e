"""Several files make one policy: each is read once, from inside one directory, and none overrides another."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from ext_authz.policy.faults import MAX_FAULTS
from ext_authz.policy.source import read_source
from tests.unit.policy.reading import fault, faults, read, source_of, written

PARTS = {
    "main.yaml": "version: 1\ninclude: [teams/*.yaml, limits.yml]\nroutes: [a]\nmodels: {x: 1}\n",
    "teams/two.yaml": "routes: [c]\n",
    "teams/one.yaml": "routes: [b]\nmodels: {y: 2}\n",
    "limits.yml": "limits: {user: {rate: 1}}\n",
    "unread.yaml": "never: 1\n",
}


def test_a_file_and_what_it_includes_are_one_policy(tmp_path: Path) -> None:
    source = source_of(written(tmp_path, PARTS), {})
    assert source.data == {
        "version": 1,
        "routes": ["a", "b", "c"],
        "models": {"x": 1, "y": 2},
        "limits": {"user": {"rate": 1}},
    }
    names = ["main.yaml", "teams/one.yaml", "teams/two.yaml", "limits.yml"]
    assert source.files == tuple(tmp_path / name for name in names)
    assert source.position(("routes", 2)).file == tmp_path / "teams/two.yaml"
    assert source.key_position(("models", "y")).file == tmp_path / "teams/one.yaml"


def test_a_directory_is_one_policy(tmp_path: Path) -> None:
    written(tmp_path, {"b.yml": "routes: [b]\n", "a.yaml": "routes: [a]\n", ".c.yaml": "[", "notes.txt": "["})
    source = source_of(tmp_path, {})
    assert (source.data, source.files) == ({"routes": ["a", "b"]}, (tmp_path / "a.yaml", tmp_path / "b.yml"))


def test_a_mounted_config_map_is_read(tmp_path: Path) -> None:
    written(tmp_path, {"..2026/policy.yaml": "include: [part.yml]\nversion: 1\n", "..2026/part.yml": "routes: [a]\n"})
    (tmp_path / "..data").symlink_to("..2026")
    for name in ("policy.yaml", "part.yml"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    source = source_of(tmp_path / "policy.yaml", {})
    assert source.data == {"version": 1, "routes": ["a"]}
    assert source.files == (tmp_path / "policy.yaml", tmp_path / "part.yml")


def test_the_first_file_may_be_a_link(tmp_path: Path) -> None:
    target = written(tmp_path, {"elsewhere/real.yaml": "version: 1\n"})
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/policy.yaml").symlink_to(target)
    assert source_of(tmp_path / "etc/policy.yaml", {}).data == {"version": 1}


def test_the_digest_follows_the_bytes_of_every_file(tmp_path: Path) -> None:
    text = "version: 1\n"
    assert read(tmp_path, text).digest == hashlib.sha256(text.encode()).hexdigest()[:16]
    path = written(tmp_path, PARTS)
    before = source_of(path, {}).digest
    assert source_of(path, {}).digest == before
    written(tmp_path, {"teams/two.yaml": "routes: [c] # touched\n"})
    assert source_of(path, {}).digest != before


@pytest.mark.parametrize(
    ("one", "two", "path", "place"),
    [
        ("version: 1\n", "version: 1\n", "version", "2:1"),
        ("models: {x: {roles: [a]}}\n", "models: {x: {roles: [b]}}\n", "models.x", "2:10"),
        ("routes: [a]\n", "routes: {a: 1}\n", "routes", "2:1"),
        ("routes:\n", "routes: [a]\n", "routes", "2:1"),
    ],
)
def test_a_name_defined_twice_is_reported_with_both_places(
    tmp_path: Path, one: str, two: str, path: str, place: str
) -> None:
    main = written(tmp_path, {"main.yaml": f"include: [part.yml]\n{one}", "part.yml": two})
    (error,) = faults(main)
    assert (error.code, error.file, error.path) == ("defined_twice", str(tmp_path / "part.yml"), path)
    assert f"first at {main}:{place}" in error.what


@pytest.mark.parametrize(
    ("include", "code"),
    [
        ("[none.yml]", "missing_include"),
        ("[teams/*.toml]", "missing_include"),
        ("[../x.yml]", "include_escapes"),
        ("[teams/../../x.yml]", "include_escapes"),
        ("[/etc/passwd]", "include_escapes"),
        ("['**/x.yml']", "include_escapes"),
        ('["a\\0b"]', "include_escapes"),
        ("part.yml", "wrong_include"),
        ("[1]", "wrong_include"),
        ("[[part.yml]]", "wrong_include"),
        ("{a: part.yml}", "wrong_include"),
        ("['${X}']", "wrong_include"),
        ("[main.yaml]", "include_cycle"),
        ("[part.yml, part*.yml]", "included_twice"),
        ("[folder.yml]", "unreadable_file"),
        ("[pipe.yml]", "unreadable_file"),
        ("[loop.yml]", "unreadable_file"),
        ("[out.yml]", "include_escapes"),
        ("[outer/x.yml]", "include_escapes"),
    ],
)
def test_an_include_that_is_wrong_is_told_where_it_stands(tmp_path: Path, include: str, code: str) -> None:
    inside = tmp_path / "inside"
    main = written(inside, {"main.yaml": f"version: 1\ninclude: {include}\n", "part.yml": "a: 1\n", "folder.yml/x": ""})
    written(tmp_path, {"x.yml": "stolen: 1\n"})
    os.mkfifo(inside / "pipe.yml")
    (inside / "loop.yml").symlink_to("loop.yml")
    (inside / "out.yml").symlink_to("../x.yml")
    (inside / "outer").symlink_to("..")
    (error,) = faults(main, {"X": "part.yml"})
    assert (error.code, error.file, error.line) == (code, str(main), 2)
    assert "stolen" not in str(error)
    source, _ = read_source(main, {})
    assert source is None or not source.complete


def test_a_cycle_over_files_is_told(tmp_path: Path) -> None:
    files = {"a.yml": "include: [b.yml]\n", "b.yml": "include: [c.yml]\n", "c.yml": "include: [a.yml]\n"}
    (error,) = faults(written(tmp_path, files))
    assert (error.code, error.file) == ("include_cycle", str(tmp_path / "c.yml"))


def test_what_a_directory_holds_is_not_included_too(tmp_path: Path) -> None:
    written(tmp_path, {"a.yaml": "include: [b.yaml]\n", "b.yaml": "x: 1\n"})
    (error,) = faults(tmp_path)
    assert (error.code, error.file) == ("included_twice", str(tmp_path / "b.yaml"))
    assert f"included at {tmp_path / 'a.yaml'}:1:11" in error.what


def test_a_file_that_a_directory_read_before_is_not_included(tmp_path: Path) -> None:
    written(tmp_path, {"a.yaml": "x: 1\n", "b.yaml": "include: [a.yaml]\n"})
    (error,) = faults(tmp_path)
    assert (error.code, error.file) == ("included_twice", str(tmp_path / "b.yaml"))
    assert "read for itself" in error.what


def test_a_directory_link_that_leads_out_is_not_read(tmp_path: Path) -> None:
    written(tmp_path, {"out.yaml": "stolen: 1\n", "in/a.yaml": "x: 1\n"})
    (tmp_path / "in/b.yaml").symlink_to("../out.yaml")
    (error,) = faults(tmp_path / "in")
    assert (error.code, error.file) == ("include_escapes", str(tmp_path / "in/b.yaml"))


def test_nothing_to_read_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (error,) = faults(tmp_path / "empty")
    assert error.code == "empty_directory"
    (error,) = faults(tmp_path / "none.yaml")
    assert (error.code, error.line, error.column) == ("unreadable_file", 1, 1)
    assert "no such file or directory" in error.what


def test_a_directory_that_cannot_be_listed_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refused)  # root, who runs tests in a container, may list anything
    (error,) = faults(tmp_path)
    assert error.what == "cannot read the directory: permission denied"


def test_the_faults_of_all_files_are_reported(tmp_path: Path) -> None:
    files = {"main.yaml": "include: [a.yml, b.yml]\nx: 1\nx: 1\n", "a.yml": "a: [\n", "b.yml": "b: &b 1\n"}
    error = faults(written(tmp_path, files))
    assert [Path(one.file).name for one in error] == ["a.yml", "b.yml", "main.yaml"]


@pytest.mark.parametrize(("links", "code"), [(8, ""), (9, "include_too_deep")])
def test_includes_have_a_bound(tmp_path: Path, links: int, code: str) -> None:
    files = {f"{n}.yml": f"include: [{n + 1}.yml]\n" for n in range(links)} | {f"{links}.yml": "x: 1\n"}
    found = read_source(written(tmp_path, files), {})[1]
    assert [error.code for error in found] == [code] * bool(code)


def test_many_wrong_includes_are_not_all_reported(tmp_path: Path) -> None:
    path = written(tmp_path, {"main.yaml": "include: [" + "none.yml, " * 100_000 + "]\n"})
    assert len(faults(path)) == MAX_FAULTS + 1


def test_faults_in_the_tree_leave_a_source_to_examine(tmp_path: Path) -> None:
    path = written(tmp_path, {"p.yaml": "a: {b: '${NOWHERE}', c: 1}\nd: 1\nd: 2\n"})
    source, found = read_source(path, {})
    assert source is not None
    assert [error.code for error in found] == ["unset_variable", "duplicate_key"]
    assert all(source.is_broken(place) for place in [(), ("a",), ("a", "b"), ("a", "b", 0)])
    assert not source.is_broken(("a", "c"))
    assert fault(tmp_path, "a: [\n").code == "syntax"
