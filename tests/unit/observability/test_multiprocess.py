"""The directory of the metrics."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from ext_authz.errors import ConfigError
from ext_authz.observability import multiprocess

ROUND_TRIP = """
from ext_authz.observability import multiprocess
directory = multiprocess.prepare()
assert multiprocess.directory() == directory
from ext_authz.observability.metrics import CHECKS
CHECKS.labels("r", "allowed").inc()
assert list(directory.glob("counter_*.db"))
print(directory)
"""


def test_comes_before_the_metrics() -> None:
    import prometheus_client  # noqa: F401 - now it is too late

    with pytest.raises(RuntimeError, match="comes before every import"):
        multiprocess.prepare()


def test_is_fresh_used_and_removed() -> None:
    done = subprocess.run([sys.executable, "-c", ROUND_TRIP], check=True, capture_output=True, text=True)
    assert not Path(done.stdout.strip()).exists()


SOCKET = """
import socket
from ext_authz.observability import multiprocess
directory = multiprocess.prepare()
with socket.socket(socket.AF_UNIX) as listener:
    listener.bind(str(directory / "envoy-63-and-more.sock"))
print(oct(directory.stat().st_mode), directory.parent)
"""


def test_a_long_path_is_no_place_for_sockets(tmp_path: Path) -> None:
    """unix(7): 107 bytes are the most."""
    long = tmp_path / ("t" * 130)
    long.mkdir()
    environ = {**os.environ, "TMPDIR": str(long), "XDG_RUNTIME_DIR": ""}
    done = subprocess.run([sys.executable, "-c", SOCKET], check=True, capture_output=True, text=True, env=environ)
    assert done.stdout.split() == ["0o40700", "/tmp"]
    done = subprocess.run(
        [sys.executable, "-c", SOCKET], check=True, capture_output=True, text=True, env=environ | {"TMPDIR": "/dev/shm"}
    )
    assert done.stdout.split() == ["0o40700", "/dev/shm"], "a short one is taken as it is"


def test_without_any_place_there_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("t" * 130)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    monkeypatch.setattr(os, "access", lambda path, _: path == str(long))
    with pytest.raises(
        ConfigError, match=r"^TMPDIR: \d+ bytes are too many for the path of a Unix socket: .* at most 70"
    ):
        multiprocess._made()

    def nowhere() -> str:
        raise FileNotFoundError

    monkeypatch.setattr(tempfile, "gettempdir", nowhere)
    with pytest.raises(ConfigError, match="no directory for temporary files can be written"):
        multiprocess._made()
