"""The same state under a changed export: who is gone from the file has no valid token any more."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.realm.client import BATCH, Browser, RealmClient
from tests.e2e.realm.serving import on_a_thread
from tests.fakes import FakeClock
from tests.keycloak import EXPORT
from tests.services import free_port


@pytest.mark.parametrize(("kind", "name"), [("clients", "web-app"), ("users", "alice")])
def test_who_is_disabled_loses_tokens_and_sessions(tmp_path: Path, clock: FakeClock, kind: str, name: str) -> None:
    port = free_port()  # the issuer must stay the same
    state = tmp_path / "state"
    with on_a_thread(state, clock, port=port) as url, RealmClient(url) as realm:
        answer = realm.login("alice", scope="openid")
        browser = Browser(realm)
        browser.log_in("alice")
        assert realm.is_active(answer["access_token"])
    with on_a_thread(state, clock, _without(tmp_path, kind, name), port) as url, RealmClient(url) as realm:
        assert not realm.is_active(answer["access_token"])
        assert realm.userinfo(answer["access_token"]).status_code == 401
        assert realm.refresh(answer["refresh_token"]).status_code in (400, 401)
        browser.move_to(realm)
        assert "location" not in browser.authorize().headers


def test_disabled_service_account_gets_no_token(tmp_path: Path, clock: FakeClock) -> None:
    export = _without(tmp_path, "users", "service-account-batch-job")
    with on_a_thread(tmp_path / "state", clock, export) as url, RealmClient(url) as realm:
        refused = realm.token({"grant_type": "client_credentials"}, BATCH)
        assert (refused.status_code, refused.json()["error"]) == (400, "unauthorized_client")


def _without(directory: Path, kind: str, name: str) -> Path:
    """The demo realm with one client or user disabled."""
    document = json.loads(EXPORT.read_text())
    for entry in document[kind]:
        if name in (entry.get("clientId"), entry.get("username")):
            entry["enabled"] = False
    file = directory / "changed.json"
    file.write_text(json.dumps(document))
    return file
