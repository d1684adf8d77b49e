"""What only a gateway of a mesh does: redirects to HTTPS, and refuses to work with an Envoy that is too old."""

from __future__ import annotations

import socket
from pathlib import Path

import grpc
import httpx
import pytest
from msgspec.structs import replace

from ext_authz.render.endpoints import LOOPBACK
from tests.e2e.render.test_rendered import INFER, rpc_error
from tests.e2e.render.world import MESH, MESHES, running_world
from tests.unit.render.policies import EVERYDAY, of_kinds

pytestmark = pytest.mark.mesh
TOKEN = {"authorization": "Bearer alice"}


def test_plain_http_is_redirected_without_a_check(tmp_path: Path) -> None:
    """Over TLS it would be served: here is no certificate, but the listener of port 80 is the same."""
    with running_world("istio", of_kinds(*EVERYDAY), tmp_path, mesh=replace(MESH, tls_secret="tls")) as world:
        for path in ("/", INFER):
            answer = httpx.post(f"{world.url}{path}?a=b", json={}, headers={**TOKEN, "host": "models.example"})
            assert answer.status_code == httpx.codes.MOVED_PERMANENTLY
            assert answer.headers["location"] == f"https://models.example{path}?a=b"
        assert world.authorizer.asked == world.reached() == []


@pytest.mark.parametrize("renderer", MESHES)
def test_what_is_not_checked_is_answered_before_its_body_arrives(renderer: str, tmp_path: Path) -> None:
    """Else everyone could have a body buffered."""
    with running_world(renderer, of_kinds(*EVERYDAY), tmp_path, mesh=replace(MESH, tls_secret="tls")) as world:
        for line, status in ((f"POST {INFER}", b"301"), ("GET /", b"200")):
            with socket.create_connection((LOOPBACK, world.port), timeout=5) as caller:
                caller.sendall(f"{line} HTTP/1.1\r\nhost: models.example\r\ncontent-length: 100000\r\n\r\n".encode())
                assert caller.recv(65_536).split()[1] == status
        assert world.authorizer.asked == []


@pytest.mark.parametrize("version", ["1.28.5", "1.9.0"])
def test_a_gateway_that_is_too_old_says_so(version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISTIO_META_ISTIO_VERSION", version)
    with running_world("istio", of_kinds(*EVERYDAY), tmp_path) as world:
        for path in ("/", INFER, "/nothing"):
            answer = httpx.post(world.url + path, json={}, headers=TOKEN)
            assert answer.status_code == httpx.codes.SERVICE_UNAVAILABLE
            assert answer.json()["code"] == "proxy_too_old"
            assert "older than 1.37 (Istio older than 1.29): upgrade it" in answer.json()["detail"]
        failed = rpc_error(world)
        assert failed.code() == grpc.StatusCode.UNAVAILABLE
        assert str(failed.details()).startswith("proxy_too_old: this gateway")
        assert world.authorizer.asked == world.reached() == []


@pytest.mark.parametrize("version", ["1.29.0-alpha.1", "1.30.2", "2.0.0"])
def test_a_newer_one_works(version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISTIO_META_ISTIO_VERSION", version)
    with running_world("istio", of_kinds(*EVERYDAY), tmp_path) as world:
        assert httpx.post(world.url + INFER, json={}, headers=TOKEN).status_code == httpx.codes.OK
