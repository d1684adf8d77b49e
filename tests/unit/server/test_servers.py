"""Which server carries the checks, and what h2corn is told."""

from __future__ import annotations

import importlib.util
import resource
from pathlib import Path
from typing import Any

import pytest

from ext_authz.errors import ConfigError
from ext_authz.server import h2corn, pool, supervisor
from ext_authz.server.rpc import MAX_CALLS
from ext_authz.settings import Settings


def settings(tmp_path: Path, **chosen: object) -> Settings:
    (tmp_path / "policy.yaml").touch()
    values: dict[str, Any] = {
        "policy": tmp_path / "policy.yaml",
        "database_url": "postgresql://nobody@127.0.0.1/none",
        "redis_url": "redis://127.0.0.1/0",
        **chosen,
    }
    return Settings(**values)


def test_http_2_and_grpc_only(tmp_path: Path) -> None:
    config = h2corn.configuration(settings(tmp_path), 7, 100)
    assert (config.bind, config.http1, config.grpc) == (("fd://7",), False, True)


def test_the_largest_message_fits(tmp_path: Path) -> None:
    (policy,) = h2corn.configuration(settings(tmp_path, max_message_bytes=16_777_216), 7, 100).request_policies
    assert policy.path == "/*"
    assert policy.max_request_body_size > 16_777_216


def test_a_client_authority_makes_client_certificates_required(tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in ("tls_cert", "tls_key", "tls_client_ca")}
    assert h2corn.configuration(settings(tmp_path, **files), 7, 100).cert_reqs == "required"


def test_tls_without_client_authority_requires_no_certificate(tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in ("tls_cert", "tls_key")}
    config = h2corn.configuration(settings(tmp_path, **files), 7, 100)
    assert (config.certfile, config.keyfile, config.cert_reqs) == (files["tls_cert"], files["tls_key"], "none")


def test_one_connection_does_not_take_all_calls() -> None:
    """h2corn counts those that were cancelled and are not over apart."""
    assert 2 * h2corn.MAX_STREAMS < MAX_CALLS


@pytest.mark.parametrize(
    ("soft", "hard", "files", "connections"),
    [
        (1024, 1_048_576, 4352, 4096),
        (1024, resource.RLIM_INFINITY, 4352, 4096),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, resource.RLIM_INFINITY, 4096),
        (1024, 2048, 2048, 1792),
        (65_536, 65_536, 65_536, 4096),
        (100, 100, 100, 1),
    ],
)
def test_there_are_more_files_than_connections(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, files: int, connections: int
) -> None:
    limits = {resource.RLIMIT_NOFILE: (soft, hard)}
    monkeypatch.setattr(resource, "getrlimit", limits.__getitem__)
    monkeypatch.setattr(resource, "setrlimit", limits.__setitem__)
    assert h2corn.connections_allowed() == connections
    assert limits[resource.RLIMIT_NOFILE] == (files, hard)


@pytest.mark.parametrize(
    ("chosen", "module"),
    [("auto", pool.H2CORN), ("h2corn", pool.H2CORN), ("grpcio", pool.GRPCIO)],
)
def test_the_server_that_was_chosen(tmp_path: Path, chosen: str, module: str, caplog: pytest.LogCaptureFixture) -> None:
    assert supervisor.choose_server(settings(tmp_path, server=chosen)) == module
    assert not caplog.records


class TestWithoutH2corn:
    @pytest.fixture(autouse=True)
    def without_a_wheel(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    def test_auto_takes_the_portable_server_and_logs_it(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        assert supervisor.choose_server(settings(tmp_path, server="auto")) == pool.GRPCIO
        assert caplog.messages == ["the portable server starts: h2corn, which is faster, is not installed"]

    def test_h2corn_is_refused_in_one_sentence(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"^TOLLGATE_SERVER: h2corn is not installed here: "):
            supervisor.choose_server(settings(tmp_path, server="h2corn"))
