"""TLS on the gRPC listener, and clients that must show who they are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from tests.e2e.server.certificates import Authority
from tests.e2e.server.serving import Serving, launch, serving, unary
from tests.services import wait_for


@dataclass
class Mesh:
    """A server with mTLS, and the authority that signs for it."""

    server: Serving
    authority: Authority


@pytest.fixture(scope="module", params=["h2corn", "grpcio"])
def mesh(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    directory: Path = tmp_path_factory.mktemp(request.param)
    authority = Authority(directory, "mesh")
    cert, key = authority.issue("tollgate")
    files = {"tls_cert": cert, "tls_key": key, "tls_client_ca": authority.certificate}
    with serving(directory, request.param, **files) as server:
        yield Mesh(server, authority)


def call(mesh: Mesh, client: tuple[Path, Path] | None) -> bytes:
    cert, key = (path.read_bytes() for path in client) if client else (None, None)
    credentials = grpc.ssl_channel_credentials(mesh.authority.certificate.read_bytes(), key, cert)
    with grpc.secure_channel(f"127.0.0.1:{mesh.server.port}", credentials) as channel:
        return unary(channel)(b"hello", timeout=5)


def test_a_client_of_the_mesh_is_served(mesh: Mesh) -> None:
    assert call(mesh, mesh.authority.issue("envoy")) == b"hello"


def test_a_client_without_a_certificate_is_refused(mesh: Mesh) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        call(mesh, None)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_client_of_another_authority_is_refused(mesh: Mesh, tmp_path: Path) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        call(mesh, Authority(tmp_path, "elsewhere").issue("envoy"))
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


def test_plain_text_is_refused(mesh: Mesh) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        mesh.server.call(b"hello")
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("kind", ["h2corn", "grpcio"])
def test_tls_without_client_certificates(tmp_path: Path, kind: str) -> None:
    authority = Authority(tmp_path, "mesh")
    cert, key = authority.issue("tollgate")
    with serving(tmp_path, kind, tls_cert=cert, tls_key=key) as server:
        assert call(Mesh(server, authority), None) == b"hello"


@pytest.mark.parametrize("kind", ["h2corn", "grpcio"])
def test_a_renewed_certificate_is_served_without_a_restart(tmp_path: Path, kind: str) -> None:
    """Half renewed, it is reported and the old one stays."""
    authority = Authority(tmp_path, "mesh")
    cert, key = authority.issue("tollgate")
    other = tmp_path / "renewed"
    other.mkdir()
    renewed = Authority(other, "renewed")
    new_cert, new_key = renewed.issue("tollgate")
    with serving(tmp_path, kind, tls_cert=cert, tls_key=key) as server:
        (before,) = server.workers()
        cert.write_bytes(new_cert.read_bytes())
        wait_for(lambda: "rejected" in server.get("/readyz").json().get("tls", {}))
        assert call(Mesh(server, authority), None) == b"hello"
        before.kill()
        wait_for(lambda: "a worker serves again" in server.log)
        assert call(Mesh(server, authority), None) == b"hello", "what replaces a dead worker has the pair in force"
        (before,) = server.workers()
        key.write_bytes(new_key.read_bytes())
        wait_for(lambda: [worker.pid for worker in server.workers()] not in ([before.pid], []))
        wait_for(lambda: before not in server.workers())
        assert call(Mesh(server, renewed), None) == b"hello"
        assert "rejected" not in server.get("/readyz").text


class TestWrongFiles:
    """One sentence that names the setting, status 2, and nothing started."""

    def refusal(self, tmp_path: Path, **files: Path) -> str:
        server = launch(tmp_path, "auto", **files)
        assert server.process.wait(30) == 2
        return server.log

    def test_missing(self, tmp_path: Path) -> None:
        _, key = Authority(tmp_path, "mesh").issue("tollgate")
        absent = tmp_path / "absent.crt"
        sentence = self.refusal(tmp_path, tls_cert=absent, tls_key=key)
        assert sentence == f"TOLLGATE_TLS_CERT: cannot read {absent} (No such file or directory)\n"

    def test_key_of_another_certificate(self, tmp_path: Path) -> None:
        authority = Authority(tmp_path, "mesh")
        cert, _ = authority.issue("tollgate")
        _, key = authority.issue("another")
        sentence = self.refusal(tmp_path, tls_cert=cert, tls_key=key)
        assert sentence.startswith("TOLLGATE_TLS_CERT and TOLLGATE_TLS_KEY: ")
        assert sentence.count("\n") == 1

    def test_client_authority_that_is_none(self, tmp_path: Path) -> None:
        cert, key = Authority(tmp_path, "mesh").issue("tollgate")
        sentence = self.refusal(tmp_path, tls_cert=cert, tls_key=key, tls_client_ca=key)
        assert sentence == f"TOLLGATE_TLS_CLIENT_CA: {key} holds no PEM certificate\n"
