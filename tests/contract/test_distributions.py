"""What the two wheels hold: `tollgate` the product alone, `tollgate-devstack` the stack with its files."""

from __future__ import annotations

import subprocess
import tomllib
from configparser import ConfigParser
from pathlib import Path
from zipfile import ZipFile

import pytest

from ext_authz import __version__

_ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ZipFile]:
    """By distribution; each from its source distribution, as an index would offer it."""
    out = tmp_path_factory.mktemp("dist")
    uv = _ROOT / ".tools" / "bin" / "uv"
    command = [str(uv), "build", "--quiet", "--offline", "--all-packages", "--out-dir", str(out)]
    subprocess.run(command, cwd=_ROOT, check=True)
    return {path.name.partition("-")[0]: ZipFile(path) for path in out.glob("*.whl")}


def test_the_product_holds_no_development_stack(wheels: dict[str, ZipFile]) -> None:
    assert top_level(wheels["tollgate"]) == {"ext_authz", f"tollgate-{__version__}.dist-info"}


@pytest.mark.parametrize(("distribution", "package"), [("tollgate", "ext_authz"), ("tollgate_devstack", "devstack")])
def test_every_file_of_the_package_is_in_the_wheel(wheels: dict[str, ZipFile], distribution: str, package: str) -> None:
    tracked = subprocess.run(["git", "ls-files", package], cwd=_ROOT, check=True, capture_output=True, text=True)
    expected = {*tracked.stdout.splitlines()} - {"devstack/pyproject.toml"}
    assert expected
    assert expected <= {*wheels[distribution].namelist()}


def test_the_stack_adds_its_commands(wheels: dict[str, ZipFile]) -> None:
    stack = wheels["tollgate_devstack"]
    assert top_level(stack) == {"devstack", f"tollgate_devstack-{__version__}.dist-info"}
    entries = ConfigParser()
    entries.read_string(stack.read(f"tollgate_devstack-{__version__}.dist-info/entry_points.txt").decode())
    assert {*entries["tollgate.commands"]} == {"demo", "down", "status", "up"}


def test_both_have_the_same_version() -> None:
    product = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]
    stack = tomllib.loads((_ROOT / "devstack" / "pyproject.toml").read_text())["project"]
    assert product["version"] == stack["version"] == __version__
    assert f"tollgate=={__version__}" in stack["dependencies"]


def top_level(wheel: ZipFile) -> set[str]:
    return {name.partition("/")[0] for name in wheel.namelist()}
