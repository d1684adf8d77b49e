"""Key rotation as a verifier sees it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import jwt
import pytest

from tests.e2e.realm.client import RealmClient


@pytest.fixture
def rotation(realm: RealmClient, state: Path) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {(state / 'admin-token').read_text().strip()}"}
    with httpx.Client(base_url=f"{realm.base_url}/admin/realms/tollgate", headers=headers) as client:
        yield client


def test_rotation_signs_with_the_new_key_and_keeps_the_old_one(realm: RealmClient, rotation: httpx.Client) -> None:
    old = realm.login("alice", scope="openid")
    new_kid = rotation.post("/keys/rotate").json()["kid"]
    new = realm.login("alice")
    assert _kid(new["access_token"]) == new_kid != _kid(old["access_token"])
    assert realm.claims(old["access_token"])["preferred_username"] == "alice"
    assert realm.is_active(old["access_token"])
    assert len(realm.jwks()) == 3


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic d3Jvbmc6"}])
def test_without_the_admin_token_nothing_happens(realm: RealmClient, headers: dict[str, str]) -> None:
    before = realm.jwks()
    refused = httpx.post(f"{realm.base_url}/admin/realms/tollgate/keys/rotate", headers=headers)
    assert refused.status_code == 401
    assert realm.jwks() == before


def _kid(token: str) -> str:
    return str(jwt.get_unverified_header(token)["kid"])
