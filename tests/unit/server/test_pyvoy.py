"""The Envoy configuration of a worker, and when there can be none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ext_authz.errors import ConfigError
from ext_authz.server import pyvoy, supervisor
from ext_authz.server.grpcio import Grpcio
from ext_authz.settings import Settings


def settings(tmp_path: Path, **chosen: object) -> Settings:
    (tmp_path / "policy.yaml").touch()
    told: dict[str, Any] = {
        "policy": tmp_path / "policy.yaml",
        "database_url": "postgresql://nobody@127.0.0.1/none",
        "redis_url": "redis://127.0.0.1/0",
        **chosen,
    }
    return Settings(**told)


def config(tmp_path: Path, /, **chosen: object) -> dict[str, Any]:
    address = str(chosen.pop("address", "127.0.0.1"))
    return pyvoy.Pyvoy(settings(tmp_path, **chosen), address, tmp_path, 7).config()


def chain(whole: dict[str, Any]) -> dict[str, Any]:
    (listener,) = whole["static_resources"]["listeners"]
    (only,) = listener["filter_chains"]
    assert isinstance(only, dict)
    return only


def test_the_admin_interface_is_a_socket_that_only_we_can_open(tmp_path: Path) -> None:
    assert config(tmp_path)["admin"] == {"address": {"pipe": {"path": str(tmp_path / "envoy-7.sock"), "mode": 0o600}}}


def test_http_2_only(tmp_path: Path) -> None:
    (connections,) = chain(config(tmp_path))["filters"]
    assert connections["typed_config"]["codec_type"] == "HTTP2"
    assert connections["typed_config"]["http2_protocol_options"]["max_concurrent_streams"] == pyvoy.MAX_STREAMS


def test_the_buffer_holds_the_largest_message(tmp_path: Path) -> None:
    (listener,) = config(tmp_path, max_message_bytes=16_777_216)["static_resources"]["listeners"]
    assert listener["per_connection_buffer_limit_bytes"] > 2 * 16_777_216


@pytest.mark.parametrize(("address", "both"), [("::", True), ("127.0.0.1", False), ("::1", False)])
def test_any_ipv6_address_takes_ipv4_too(tmp_path: Path, address: str, *, both: bool) -> None:
    (listener,) = config(tmp_path, address=address)["static_resources"]["listeners"]
    assert listener["address"]["socket_address"]["ipv4_compat"] is both


def test_a_client_authority_makes_client_certificates_required(tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in ("tls_cert", "tls_key", "tls_client_ca")}
    tls = chain(config(tmp_path, **files))["transport_socket"]["typed_config"]
    assert tls["require_client_certificate"] is True
    assert tls["common_tls_context"]["alpn_protocols"] == ["h2"]
    assert tls["common_tls_context"]["tls_params"] == {"tls_minimum_protocol_version": "TLSv1_2"}


def test_tls_without_client_authority_asks_nobody(tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in ("tls_cert", "tls_key")}
    tls = chain(config(tmp_path, **files))["transport_socket"]["typed_config"]
    assert tls["require_client_certificate"] is False


class TestWithoutSharedLibpython:
    @pytest.fixture(autouse=True)
    def static_python(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("find_libpython.candidate_paths", lambda: iter(()))

    def test_auto_takes_the_portable_server_and_says_why(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        servers = supervisor.choose_servers(settings(tmp_path, server="auto", workers=2))
        assert [type(server) for server in servers] == [Grpcio, Grpcio]
        (record,) = caplog.records
        assert "install libpython3." in vars(record)["detail"]

    def test_pyvoy_is_refused_in_one_sentence(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"^TOLLGATE_SERVER: pyvoy cannot run here: this Python has no shared"):
            supervisor.choose_servers(settings(tmp_path, server="pyvoy"))

    def test_grpcio_needs_none_and_says_nothing(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        supervisor.choose_servers(settings(tmp_path, server="grpcio"))
        assert not caplog.records
