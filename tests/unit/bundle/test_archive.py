"""What goes into the archive: what is locked for the Python that it is for, and the same bytes for the same files."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import tarfile
from pathlib import Path

import pytest

from bundle.archive import pack, seal
from bundle.locked import FRAMEWORKS, SERVICE, _without_markers, locked
from bundle.wheels import requirements
from tests.unit.bundle.made import LICENSED, digest, wheel

_LINE = re.compile(r"[\w.-]+(?:\[\w+\])?==\S+(?: +--hash=sha256:[0-9a-f]{64})+")
_EXPORTED = """\
always==1 \\
    --hash=sha256:aa
old-patch==1 ; python_full_version < '3.11.3' \\
    --hash=sha256:aa \\
    --hash=sha256:bb
newer==1 ; python_full_version >= '3.12' \\
    --hash=sha256:aa
windows==1 ; sys_platform == 'win32' \\
    --hash=sha256:aa
"""


@pytest.mark.parametrize("environment", [SERVICE, *FRAMEWORKS])
@pytest.mark.parametrize("python", ["3.11", "3.12"])
def test_every_line_is_one_version_with_its_hashes(environment: str, python: str) -> None:
    lines = locked(environment, python)
    assert len(lines) > 10
    assert [line for line in lines if not _LINE.fullmatch(line)] == []
    names = [line.partition("==")[0] for line in lines]
    assert sorted(set(names)) == sorted(names)


def test_what_any_patch_release_needs_is_there() -> None:
    assert [*_without_markers(_EXPORTED, "3.11")] == [
        "always==1 --hash=sha256:aa",
        "old-patch==1 --hash=sha256:aa --hash=sha256:bb",
    ]
    assert [line.partition("=")[0] for line in _without_markers(_EXPORTED, "3.12")] == ["always", "newer"]


def test_requirements_name_these_files(tmp_path: Path) -> None:
    made = [wheel(tmp_path, name, LICENSED) for name in ("b_c", "a")]
    a, b = digest(made[1]), digest(made[0])
    assert requirements(made) == f"a==1.0 --hash=sha256:{a}\nb-c==1.0 --hash=sha256:{b}\n"


def test_the_same_files_are_the_same_bytes(tmp_path: Path) -> None:
    archives = []
    for number, names in enumerate([("a", "b/c"), ("b/c", "a")]):
        directory = tmp_path / str(number) / "tollgate"
        for name in names:
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            (directory / name).write_text(name)
            os.utime(directory / name, (number, number))
        (directory / "a").chmod(0o700 + number)
        seal(directory)
        archives.append(tmp_path / f"{number}.tar")
        pack(directory, archives[-1], 1_700_000_000)
    assert archives[0].read_bytes() == archives[1].read_bytes()
    with tarfile.open(archives[0]) as archive:
        assert {entry.name: oct(entry.mode) for entry in archive} == {
            "tollgate/SHA256SUMS": "0o644", "tollgate/a": "0o755", "tollgate/b/c": "0o644",
        }  # fmt: skip
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=tmp_path / "0/tollgate", check=True)


def test_an_archive_that_does_not_fit_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "tollgate").mkdir()
    (tmp_path / "tollgate" / "file").write_bytes(bytes(100_000))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            pack(tmp_path / "tollgate", tmp_path / "out.tar", 1_700_000_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in tmp_path.iterdir()] == ["tollgate"]
