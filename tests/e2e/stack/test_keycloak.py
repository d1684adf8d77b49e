"""`tollgate up --idp keycloak`: a real Keycloak in the stack."""

from __future__ import annotations

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import httpx
import pytest

from tests.e2e.stack.test_up import Operator
from tests.http_server import running_http_server
from tests.keycloak import why_no_keycloak
from tests.realm_admin import RealmAdmin
from tests.services import free_port

pytestmark = pytest.mark.keycloak


@pytest.fixture
def operator(tmp_path: Path) -> Iterator[Operator]:
    if why := why_no_keycloak():
        pytest.skip(why)
    operator = Operator(tmp_path)
    yield operator
    operator.run("down")


class Answering(BaseHTTPRequestHandler):
    """In the place of Triton."""

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_POST = do_GET  # noqa: N815  # as the base class calls it

    def log_message(self, *_: object) -> None:
        """Quiet."""


def test_its_tokens_are_accepted_and_down_leaves_nothing(operator: Operator) -> None:
    with running_http_server(Answering) as port:
        up = operator.run("up", "--idp", "keycloak", "--detach", triton=f"127.0.0.1:{port}:{free_port()}")
        assert up.returncode == 0, up.stdout + up.stderr
        status = operator.run("status")
        assert status.returncode == 0, status.stdout
        issuer = f"http://127.0.0.1:{operator.ports['idp_port']}/realms/tollgate"
        assert issuer in status.stdout
        assert f"TOLLGATE_ISSUER={issuer}" in operator.run("env").stdout
        gateway = f"http://127.0.0.1:{operator.ports['envoy_port']}"
        assert infer(gateway, token(issuer, "alice")) == 200
        assert infer(gateway, token(issuer, "carol")) == 403
        the_console_is_told_where_envoy_is(operator, gateway)
    assert operator.run("down").returncode == 0
    assert operator.marked() == []


def the_console_is_told_where_envoy_is(operator: Operator, gateway: str) -> None:
    with RealmAdmin(f"http://127.0.0.1:{operator.ports['idp_port']}") as admin:
        [console] = admin.get("/clients", clientId="tollgate-console")
        assert console["adminUrl"] == f"{gateway}/tollgate/signals"
        assert console["attributes"]["backchannel.logout.url"] == f"{gateway}/tollgate/signals/backchannel-logout"
        assert f"{gateway}/tollgate/callback" in console["redirectUris"]


def token(issuer: str, user: str) -> str:
    form = {"grant_type": "password", "client_id": "web-app", "username": user, "password": user}
    answer = httpx.post(f"{issuer}/protocol/openid-connect/token", data=form).raise_for_status()
    return str(answer.json()["access_token"])


def infer(gateway: str, bearer: str) -> int:
    headers = {"Authorization": f"Bearer {bearer}"}
    return httpx.post(f"{gateway}/v2/models/sentiment/infer", json={}, headers=headers).status_code
