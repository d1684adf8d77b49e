"""The socket over which a running service is asked about its policy: for one user, whatever was there before."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.e2e.server.serving import Serving, launch, serving


@pytest.fixture
def short() -> Iterator[Path]:
    """A directory whose path leaves room for a name."""
    with tempfile.TemporaryDirectory(prefix="tg-") as directory:
        yield Path(directory)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving(tmp_path_factory.mktemp("socket"), "grpcio", factory="build_wrong_later") as server:
        yield server


def command(where: Path | None, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, **environ} | ({"TOLLGATE_ADMIN_SOCKET": str(where)} if where else {})
    return subprocess.run(
        [sys.executable, "-m", "ext_authz", "policy", *words], env=environ, capture_output=True, text=True, check=False
    )


def test_it_is_this_users_alone(running: Serving) -> None:
    found = running.admin_socket.lstat()
    assert stat.S_ISSOCK(found.st_mode)
    assert (stat.S_IMODE(found.st_mode), found.st_uid) == (0o600, os.geteuid())


def test_the_commands_ask_over_it(running: Serving) -> None:
    status = command(running.admin_socket, "status")
    assert (status.returncode, set(json.loads(status.stdout))) == (0, {"policy"})
    assert set(json.loads(command(running.admin_socket, "differences").stdout)) == {"policy", "sample", "differences"}
    assert command(running.admin_socket, "reload").returncode == 0, "nothing was changed"
    (running.directory / "wrong").touch()
    (running.directory / "policy.yaml").write_text("no policy any more")
    refused = command(running.admin_socket, "reload")
    assert refused.returncode == 1
    assert json.loads(refused.stdout)["type"] == "urn:tollgate:problem:policy-rejected"


def test_the_policy_is_not_served_over_tcp(running: Serving) -> None:
    assert running.get("/policy").status_code == 404
    assert httpx.post(f"http://127.0.0.1:{running.admin_port}/policy/reload").status_code == 404
    page = {"host": "evil.example", "origin": "https://evil.example"}
    assert httpx.get(f"http://127.0.0.1:{running.admin_port}/metrics", headers=page).status_code == 403


def test_without_a_server_the_command_fails_with_one_sentence(short: Path) -> None:
    found = command(short / "nobody.sock", "reload")
    assert (found.returncode, found.stdout) == (1, "")
    assert found.stderr.startswith(f"tollgate: nothing answers at {short / 'nobody.sock'} (")
    assert found.stderr.count("\n") == 1


@pytest.mark.alone
def test_its_default_place_is_the_same_for_service_and_command(tmp_path: Path) -> None:
    with serving(tmp_path, "grpcio", admin_socket=None) as server:
        found = command(None, "status", TOLLGATE_ADMIN_PORT=str(server.admin_port), TMPDIR="/nowhere")
        assert found.returncode == 0, found.stderr
        place = Path(f"/tmp/tollgate-{os.geteuid()}")
        assert stat.S_IMODE(place.stat().st_mode) == 0o700
        assert (place / f"admin-{server.admin_port}.sock").exists()
        server.terminate()
        assert server.process.wait(30) == 0
    assert not (place / f"admin-{server.admin_port}.sock").exists()


def test_what_a_killed_one_left_is_no_obstacle(tmp_path: Path, short: Path) -> None:
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(short / "a.sock"))
    left.close()
    with serving(tmp_path, "grpcio", admin_socket=short / "a.sock"):
        assert command(short / "a.sock", "status").returncode == 0


@pytest.mark.parametrize("obstacle", ["a living one", "a file", "no directory", "too long"])
def test_an_obstacle_is_one_sentence(tmp_path: Path, short: Path, obstacle: str) -> None:
    path = short / {"no directory": "none/a.sock", "too long": "a" * 120}.get(obstacle, "a.sock")
    with socket.socket(socket.AF_UNIX) as living:
        if obstacle == "a living one":
            living.bind(str(path))
            living.listen()
        elif obstacle == "a file":
            path.write_text("kept")
        server = launch(tmp_path, "grpcio", admin_socket=path)
        assert server.process.wait(30) == 2
    assert server.log.startswith(f"TOLLGATE_ADMIN_SOCKET: cannot listen on {path} (")
    assert server.log.count("\n") == 1
    assert ("107 bytes" in server.log) == (obstacle == "too long")
    assert obstacle != "a file" or path.read_text() == "kept"
