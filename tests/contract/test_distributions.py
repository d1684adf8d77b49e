"""What the two wheels hold, and that the product works from its wheel in an environment that has nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from configparser import ConfigParser
from email import message_from_bytes
from pathlib import Path
from zipfile import ZipFile

import pytest

from ext_authz import __version__
from tests.wheels import UV, built, cache, requirements
from tests.wheels import installed as in_environment

_ROOT = Path(__file__).parents[2]
_MONITORING = "devstack/monitoring/files"
"""A link to the chart's files."""
_NOT_IN_WHEELS = {"devstack/pyproject.toml", "devstack/README.md", "devstack/LICENSE", _MONITORING}

_IMPORT_ALL = """
import importlib, pkgutil, ext_authz
for module in pkgutil.walk_packages(ext_authz.__path__, "ext_authz."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
"""
_HELP_OF_ALL = """
import click
from ext_authz.cli import cli
def show(command, context):
    command.get_help(context)
    for name in command.list_commands(context) if isinstance(command, click.Group) else ():
        below = command.get_command(context, name)
        print(context.command_path, name)
        show(below, click.Context(below, parent=context, info_name=name))
show(cli, click.Context(cli, info_name="tollgate"))
"""


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ZipFile]:
    """By distribution."""
    return {name: ZipFile(path) for name, path in built(tmp_path_factory.mktemp("dist")).items()}


def test_the_product_holds_no_development_stack(wheels: dict[str, ZipFile]) -> None:
    assert top_level(wheels["tollgate"]) == {"ext_authz", "tollgate", f"tollgate-{__version__}.dist-info"}


@pytest.mark.parametrize(
    ("distribution", "package"),
    [("tollgate", "ext_authz"), ("tollgate", "tollgate"), ("tollgate_devstack", "devstack")],
)
def test_every_file_of_the_package_is_in_the_wheel(wheels: dict[str, ZipFile], distribution: str, package: str) -> None:
    tracked = subprocess.run(["git", "ls-files", package], cwd=_ROOT, check=True, capture_output=True, text=True)
    expected = {*tracked.stdout.splitlines()} - _NOT_IN_WHEELS
    assert expected
    assert expected <= {*wheels[distribution].namelist()}


def test_the_stack_has_the_rules_and_dashboards_of_the_chart(wheels: dict[str, ZipFile]) -> None:
    stack, chart = wheels["tollgate_devstack"], _ROOT / "k8s" / "chart" / "files"
    expected = {str(file.relative_to(chart)): file.read_bytes() for file in chart.rglob("*.*")}
    found = {name for name in stack.namelist() if name.startswith(_MONITORING)}
    assert {name.removeprefix(f"{_MONITORING}/"): stack.read(name) for name in found} == expected


def test_the_stack_adds_its_commands(wheels: dict[str, ZipFile]) -> None:
    stack = wheels["tollgate_devstack"]
    assert top_level(stack) == {"devstack", f"tollgate_devstack-{__version__}.dist-info"}
    entries = ConfigParser()
    entries.read_string(stack.read(f"tollgate_devstack-{__version__}.dist-info/entry_points.txt").decode())
    assert {*entries["tollgate.commands"]} == {"demo", "down", "models", "status", "up"}


@pytest.mark.parametrize("distribution", ["tollgate", "tollgate_devstack"])
def test_the_metadata_is_complete(wheels: dict[str, ZipFile], distribution: str) -> None:
    wheel, information = wheels[distribution], f"{distribution}-{__version__}.dist-info"
    metadata = message_from_bytes(wheel.read(f"{information}/METADATA"))
    assert metadata["License-Expression"] == "Apache-2.0"
    assert wheel.read(f"{information}/licenses/LICENSE") == (_ROOT / "LICENSE").read_bytes()
    assert {"Typing :: Typed", "Programming Language :: Python :: 3.11"} <= {*metadata.get_all("Classifier", [])}
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata["Summary"]
    assert str(metadata.get_payload()).startswith("# Tollgate")
    assert f"{distribution.partition('_')[2] or 'ext_authz'}/py.typed" in wheel.namelist()
    assert not metadata.get_all("Project-URL", []), "docs/install.md says that there is no public address"


def test_the_wheels_have_the_names_that_messages_give(wheels: dict[str, ZipFile]) -> None:
    assert {Path(str(wheel.filename)).name for wheel in wheels.values()} == {
        f"{name}-{__version__}-py3-none-any.whl" for name in wheels
    }


def test_both_have_the_same_version() -> None:
    product = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]
    stack = tomllib.loads((_ROOT / "devstack" / "pyproject.toml").read_text())["project"]
    assert product["version"] == stack["version"] == __version__
    assert f"tollgate[pdf]=={__version__}" in stack["dependencies"]


def top_level(wheel: ZipFile) -> set[str]:
    return {name.partition("/")[0] for name in wheel.namelist()}


@pytest.fixture(scope="module")
def installed(wheels: dict[str, ZipFile], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment that holds the wheel of the product."""
    return in_environment(Path(str(wheels["tollgate"].filename)), tmp_path_factory.mktemp("installed"))


def run(program: Path, *arguments: str, stdin: str = "", **settings: str) -> subprocess.CompletedProcess[str]:
    """Away from the checkout, with no settings but these."""
    environ = {"PATH": os.defpath, "XDG_STATE_HOME": "/nowhere", **settings}  # no stack that runs here
    return subprocess.run(
        [program, *arguments], cwd="/", env=environ, input=stdin, check=False, capture_output=True, text=True
    )


def test_every_module_can_be_imported(installed: Path) -> None:
    done = run(installed / "python", "-W", "error", "-c", _IMPORT_ALL)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_command_has_its_help(installed: Path) -> None:
    done = run(installed / "python", "-c", _HELP_OF_ALL)
    assert (done.returncode, done.stderr) == (0, "")
    assert {"tollgate serve", "tollgate policy render envoy", "tollgate revoke user"} <= {*done.stdout.splitlines()}


@pytest.mark.parametrize("arguments", ["", "--version", "policy check -", "policy render envoy -", "settings"])
def test_these_need_nothing(installed: Path, arguments: str) -> None:
    policy = (_ROOT / "docs" / "cookbook" / "01-public-health" / "policy.yaml").read_text()
    done = run(installed / "tollgate", *arguments.split(), stdin=policy)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


@pytest.mark.parametrize(
    ("command", "needed"),
    [
        ("serve", "TOLLGATE_POLICY: is required: the policy: a file, or a directory of files; TOLLGATE_DATABASE_URL: "),
        ("migrate", "TOLLGATE_DATABASE_URL: is required: Postgres, the source of truth: postgresql://"),
        ("usage", "TOLLGATE_DATABASE_URL: is required: Postgres, the source of truth: postgresql://"),
        ("usage-worker", "TOLLGATE_DATABASE_URL: is required: "),
        ("revocations list", "TOLLGATE_DATABASE_URL: is required: "),
        ("policy check", "no policy: write a file, a directory, or - for standard input, or set TOLLGATE_POLICY\n"),
        ("up", "`tollgate up` is part of the development stack: install its wheel, tollgate_devstack-"),
    ],
)
def test_others_say_what_they_need(installed: Path, command: str, needed: str) -> None:
    done = run(installed / "tollgate", *command.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"tollgate: {needed}")
    assert done.stderr.count("\n") == 1
    assert "TOLLGATE_POLICY" in needed or "TOLLGATE_POLICY" not in done.stderr


def test_pipx_runs_a_command_in_passing(wheels: dict[str, ZipFile], tmp_path: Path) -> None:
    """In a home that has nothing; what the wheel needs comes in the versions of the lock file."""
    (tmp_path / "locked.txt").write_text(requirements())
    environ = {
        **{name: value for name, value in os.environ.items() if not name.startswith("TOLLGATE_")},
        "HOME": str(tmp_path),
        "UV_CACHE_DIR": cache(),
        "UV_CONSTRAINT": str(tmp_path / "locked.txt"),
        "PATH": f"{Path(UV).parent}{os.pathsep}{os.defpath}",
    }
    command = [sys.executable, "-m", "pipx", "run", "--backend", "uv", "--spec", str(wheels["tollgate"].filename)]
    policy = _ROOT / "docs" / "cookbook" / "01-public-health" / "policy.yaml"
    done = subprocess.run(
        [*command, "tollgate", "policy", "check", policy],
        cwd=tmp_path, env=environ, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "good\n"), done.stderr
