"""`python -m devstack.realm` as the stack runs it: restarts, signals, files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.realm.client import RealmClient
from tests.e2e.realm.serving import RealmProcess
from tests.services import free_port


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def process(state: Path, port: int) -> Iterator[RealmProcess]:
    with RealmProcess(state, port) as started:
        yield started


def test_restart_keeps_tokens_sessions_and_keys(process: RealmProcess, state: Path, port: int) -> None:
    with RealmClient(process.url) as before:
        kept, revoked, keys = before.login("alice"), before.login("bob"), before.jwks()
        before.revoke(revoked["access_token"])
    process.stop()

    with RealmProcess(state, port) as restarted, RealmClient(restarted.url) as after:
        assert after.jwks() == keys
        assert after.is_active(kept["access_token"])
        assert not after.is_active(revoked["access_token"])
        assert after.claims(after.refresh(kept["refresh_token"]).json()["access_token"], "triton-gateway")
        assert after.refresh(kept["refresh_token"]).status_code == 400, "the restart forgot which token was newest"


def test_sigterm_is_a_clean_end_with_a_warning_in_the_log_and_no_credential(process: RealmProcess) -> None:
    with RealmClient(process.url) as realm:
        answer = realm.login("alice", scope="openid")
    code, log = process.stop()
    assert code == 0, log
    assert "never for production" in log
    assert "Traceback" not in log
    for secret in (answer["access_token"], answer["refresh_token"], answer["id_token"]):
        assert secret not in log


def test_only_this_machine_can_connect(process: RealmProcess, port: int) -> None:
    assert process.listens_on() == {("127.0.0.1", port)}


def test_secrets_are_readable_by_the_owner_only(process: RealmProcess, state: Path) -> None:
    modes = {file.name: file.stat().st_mode & 0o077 for file in (state, *state.iterdir())}
    assert {"admin-token", "devrealm.sqlite"} <= modes.keys()
    assert set(modes.values()) == {0}
