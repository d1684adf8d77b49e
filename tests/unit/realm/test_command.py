"""Options that are wrong: one sentence, exit code 2, nothing started."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from devstack.realm.__main__ import main
from tests.unit.realm.exports import DEMO, written


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--host", "0.0.0.0"), "No such option '--host'"),
        (("--port", "0"), "0 is not in the range"),
        (("--realm", "nowhere.json"), "nowhere.json cannot be read"),
    ],
)
def test_wrong_options(tmp_path: Path, options: tuple[str, str], sentence: str) -> None:
    result = _run(tmp_path, *options)
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert "Traceback" not in result.stderr


def test_port_in_use(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = _run(tmp_path, "--port", port)
    assert result.exit_code == 2
    assert f"cannot listen on 127.0.0.1 port {port}: Address already in use" in result.stderr


def test_contradiction_in_the_export(tmp_path: Path) -> None:
    users = [{"username": "a", "enabled": True, "realmRoles": ["nobody"]}]
    export = written(tmp_path, {"realm": "r", "enabled": True, "users": users})
    result = _run(tmp_path, "--realm", str(export))
    assert (result.exit_code, "realm role 'nobody' of user 'a'" in result.stderr) == (2, True)


def _run(directory: Path, *options: str) -> Result:
    defaults = ["--realm", str(DEMO), "--state", str(directory / "state"), "--port", "1"]
    return CliRunner().invoke(main, [*defaults, *options])
