"""`tollgate models`: what it hands on to the environment that has MLflow."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from devstack.commands import models
from ext_authz.errors import ConfigError

_PYTHON = """#!/bin/sh
echo "$@" in "$(basename "$PWD")" key "$TOLLGATE_MODELS_SIGNING_KEY" >"$0.told"
exit 3
"""


@pytest.fixture
def python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of the training environment: tells what it was called with."""
    monkeypatch.setenv("TOLLGATE_MODELS", str(tmp_path))
    program = tmp_path / "training/.venv/bin/python"
    program.parent.mkdir(parents=True)
    program.write_text(_PYTHON)
    program.chmod(0o755)
    return program


def _invoke(*arguments: str) -> Result:
    return CliRunner().invoke(models, arguments)


def test_arguments_key_and_exit_code_go_through(python: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TOLLGATE_MODELS_SIGNING_KEY", "/keys/ours.pem")
    assert _invoke("promote", "sentiment", "candidate", "--to", "3").exit_code == 3
    told = python.with_name("python.told")
    wanted = f"-m training.registry promote sentiment candidate --to=3 in {tmp_path.name} key /keys/ours.pem\n"
    assert told.read_text() == wanted
    monkeypatch.delenv("TOLLGATE_MODELS_SIGNING_KEY")
    _invoke("register", "sentiment")
    assert told.read_text() == f"-m training.registry register sentiment in {tmp_path.name} key \n"


def test_without_the_environment_it_says_how_to_make_it(python: Path) -> None:
    python.unlink()
    with pytest.raises(ConfigError, match=r"training/\.venv is missing: run `make training` in a checkout of Tollgate"):
        CliRunner().invoke(models, ["register", "sentiment"], catch_exceptions=False)
