"""Where the filter listens, and what it says where it cannot."""

from __future__ import annotations

import socket
import stat
from pathlib import Path

import pytest

from ext_authz.errors import ConfigError
from ext_authz.filter.process import _bound
from ext_authz.filter_settings import FilterSettings
from ext_authz.settings import load_settings


def test_a_socket_is_its_users_alone(tmp_path: Path) -> None:
    place = tmp_path / "filter.sock"
    for _ in range(2):  # the second time in place of what a killed process left
        with _bound(f"unix:{place}"):
            assert stat.S_IMODE(place.stat().st_mode) == 0o600
            with socket.socket(socket.AF_UNIX) as envoy:
                envoy.connect(str(place))


@pytest.mark.parametrize("where", ["127.0.0.1:0", "[::1]:0"])
def test_an_address_is_bound(where: str) -> None:
    with _bound(where) as listener:
        assert listener.getsockname()[0] == where.rpartition(":")[0].strip("[]")


def test_a_place_that_is_taken_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for where in (f"127.0.0.1:{port}", "127.0.0.1:99999", f"unix:{tmp_path}/file", f"unix:{tmp_path}/none/s"):
            with pytest.raises(ConfigError, match=f"TOLLGATE_FILTER_LISTEN: cannot listen on {where}"):
                _bound(where)
    assert (tmp_path / "file").read_text() == "x"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LISTEN", "9030"),
        ("LISTEN", "unix:relative.sock"),
        ("MLFLOW_URL", "http://127.0.0.1:5000/api"),
        ("MLFLOW_URL", "http://user@host"),
        ("MLFLOW_URL", "ftp://host"),
        ("PREFIX", "/"),
        ("PREFIX", "mlflow"),
        ("PREFIX", "/mlflow/"),
        ("ARTIFACT_BYTES", "0"),
    ],
)
def test_a_wrong_setting_is_one_sentence(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv("TOLLGATE_FILTER_LISTEN", "unix:/run/filter.sock")
    monkeypatch.setenv("TOLLGATE_FILTER_MLFLOW_URL", "https://mlflow.internal:5000")
    load_settings(FilterSettings)
    monkeypatch.setenv(f"TOLLGATE_FILTER_{name}", value)
    with pytest.raises(ConfigError, match=f"^TOLLGATE_FILTER_{name}: "):
        load_settings(FilterSettings)
