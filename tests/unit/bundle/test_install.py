"""`install.py`: what it makes of a bundle, and the one sentence that it has for each that does not do."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bundle.archive import seal
from tests.unit.bundle.made import unpacked


def install(bundle: Path, *arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, bundle / "install.py", *arguments]
    environment = os.environ | variables
    return subprocess.run(command, cwd=bundle.parent, env=environment, check=False, capture_output=True, text=True)


def test_it_installs_once(tmp_path: Path) -> None:
    """Whatever this user's pip is set up to do; and what is there already stays."""
    bundle, target = unpacked(tmp_path), tmp_path / "with a blank"
    done = install(bundle, "with a blank", PIP_INDEX_URL="https://index.invalid", PIP_REQUIRE_VIRTUALENV="yes")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == f"installed: {target}/bin/tollgate"
    said = subprocess.run([target / "bin" / "tollgate", "demo"], check=True, capture_output=True, text=True)
    assert said.stdout == "tollgate demo\n"
    shared = target / "share" / "tollgate"
    assert {path.name for path in shared.iterdir()} == {
        "applications", "bundle.json", "licences", "LICENCES.md", "model_servers", "sbom.cdx.json",
    }  # fmt: skip
    assert (shared / "model_servers" / ".venvs" / "sklearn" / "bin" / "python").exists()
    before = sorted(target.rglob("*"))
    (tmp_path / "link").symlink_to(target)
    for name in (target, tmp_path / "link"):
        wanted = f"{target} has Tollgate 1.0 already: name another directory, and remove this one later"
        assert_refused(install(bundle, name), wanted)
    assert sorted(target.rglob("*")) == before


def test_the_directory_must_be_empty(tmp_path: Path) -> None:
    bundle, target = unpacked(tmp_path), tmp_path / "target"
    target.mkdir()
    (target / "precious").touch()
    wanted = f"{target} is not an empty directory: name one that is not there yet, or remove it"
    assert_refused(install(bundle, target), wanted)
    assert_refused(
        install(bundle, target / "precious" / "x"), f"{target}/precious is not a directory: name another one"
    )
    assert [*target.iterdir()] == [target / "precious"]


@pytest.mark.parametrize(
    ("about", "sentence"),
    [
        ({"python": "3.10"}, r"this archive is for CPython 3\.10, and this is CPython 3\.\d+: run python3\.10 install"),
        ({"machine": "s390x"}, r"this archive is for Linux on s390x, and this is Linux on \w+: get the one for it"),
        ({"glibc": [3, 1]}, r"this archive needs glibc 3\.1 or newer, and this machine has glibc 2\.\d+"),
        ({"bytes": 10**18}, r"/\S+/target needs 1149999999999 MB, and \d+ MB are free there: name another directory"),
    ],
)
def test_this_machine_does_not_do(tmp_path: Path, about: dict[str, Any], sentence: str) -> None:
    done = install(unpacked(tmp_path, **about), tmp_path / "target")
    assert done.returncode == 1
    assert re.match(f"install.py: {sentence}", done.stderr)
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize("name", ["bundle.json", "SHA256SUMS", "wheels/tollgate-1.0-py3-none-any.whl", "LICENCES.md"])
def test_half_an_archive(tmp_path: Path, name: str) -> None:
    bundle = unpacked(tmp_path)
    (bundle / name).unlink()
    done = install(bundle, tmp_path / "target")
    assert re.fullmatch(r"install\.py: \S+ (cannot be read|is missing): unpack the whole archive again\n", done.stderr)
    assert not (tmp_path / "target").exists()


def test_a_wheel_that_was_cut_off(tmp_path: Path) -> None:
    bundle = unpacked(tmp_path)
    wheel = bundle / "wheels" / "tollgate-1.0-py3-none-any.whl"
    wheel.write_bytes(wheel.read_bytes()[:-100])
    how = "compare the archive with its .sha256, and unpack it again"
    assert_refused(install(bundle, tmp_path / "target"), f"{wheel} is not what SHA256SUMS says: {how}")


def test_nothing_is_left_of_an_installation_that_fails(tmp_path: Path) -> None:
    """The hash in the list is that of another wheel, as in an archive that was made wrong."""
    bundle = unpacked(tmp_path)
    listed = bundle / "requirements" / "tollgate.txt"
    listed.write_text(re.sub("sha256:.{8}", "sha256:01234567", listed.read_text()))
    seal(bundle)
    done = install(bundle, tmp_path / "target")
    assert done.returncode == 1
    assert done.stderr.startswith("install.py: cannot install tollgate: ")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "target").exists()


def test_nothing_is_left_of_one_that_is_interrupted(tmp_path: Path) -> None:
    command: list[str | Path] = [sys.executable, unpacked(tmp_path) / "install.py", tmp_path / "target"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "installing tollgate\n" in iter(process.stdout.readline, "")
        process.terminate()  # a shell may have us ignore SIGINT
        _, said = process.communicate()
    assert said == f"install.py: interrupted, and {tmp_path}/target removed\n"
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize("arguments", [(), ("--help",), ("one", "two")])
def test_it_takes_one_directory(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = install(unpacked(tmp_path), *arguments)
    assert done.stderr == "write the directory to install into: python3 install.py /opt/tollgate\n"


def assert_refused(done: subprocess.CompletedProcess[str], sentence: str) -> None:
    assert (done.returncode, done.stderr) == (1, f"install.py: {sentence}\n")
