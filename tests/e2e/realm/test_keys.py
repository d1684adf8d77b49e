"""Key rotation as a verifier sees it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import jwt
import pytest

from tests.e2e.realm.client import RealmClient


@pytest.fixture
def admin(realm: RealmClient, state: Path) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {(state / 'admin-token').read_text().strip()}"}
    with httpx.Client(base_url=f"{realm.base_url}/admin/realms/tollgate", headers=headers) as client:
        yield client


def test_rotation_signs_with_the_new_key_and_keeps_the_old_one(realm: RealmClient, admin: httpx.Client) -> None:
    old = realm.login("alice", scope="openid")
    new_kid = admin.post("/keys/rotate").json()["kid"]
    new = realm.login("alice")
    assert _kid(new["access_token"]) == new_kid != _kid(old["access_token"])
    assert realm.claims(old["access_token"])["preferred_username"] == "alice"
    assert realm.is_active(old["access_token"])
    assert len(realm.jwks()) == 3


def test_disabled_key_is_gone_and_its_tokens_with_it(realm: RealmClient, admin: httpx.Client) -> None:
    old = realm.login("alice", scope="openid")
    admin.post("/keys/rotate")
    kid = _kid(old["access_token"])
    assert admin.post(f"/keys/{kid}/disable").status_code == 204
    assert kid not in {key["kid"] for key in realm.jwks()}
    assert not realm.is_active(old["access_token"])
    assert realm.userinfo(old["access_token"]).status_code == 401
    # Keycloak likewise: the refresh token has another key, the session lives on.
    assert realm.claims(realm.refresh(old["refresh_token"]).json()["access_token"])


def test_listing_tells_active_from_passive(realm: RealmClient, admin: httpx.Client) -> None:
    old = _kid(realm.login("alice")["access_token"])
    new = admin.post("/keys/rotate").json()["kid"]
    listing = admin.get("/keys").json()
    assert listing["active"]["RS256"] == new
    status = {key["kid"]: (key["algorithm"], key["status"]) for key in listing["keys"]}
    assert (status[new], status[old]) == (("RS256", "ACTIVE"), ("RS256", "PASSIVE"))
    assert sorted(alg for alg, _ in status.values()) == ["HS512", "RS256", "RS256", "RSA-OAEP"]


def test_active_key_cannot_be_disabled_nor_an_unknown_one(realm: RealmClient, admin: httpx.Client) -> None:
    kid = _kid(realm.login("alice")["access_token"])
    assert admin.post(f"/keys/{kid}/disable").status_code == 409
    assert admin.post("/keys/unknown/disable").status_code == 404
    assert kid in {key["kid"] for key in realm.jwks()}


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic d3Jvbmc6"}])
def test_without_the_admin_token_nothing_happens(realm: RealmClient, headers: dict[str, str]) -> None:
    before = realm.jwks()
    keys = f"{realm.base_url}/admin/realms/tollgate/keys"
    refused = [httpx.get(keys, headers=headers), httpx.post(f"{keys}/rotate", headers=headers)]
    refused += [httpx.post(f"{keys}/{key['kid']}/disable", headers=headers) for key in before]
    assert {response.status_code for response in refused} == {401}
    assert realm.jwks() == before


def _kid(token: str) -> str:
    return str(jwt.get_unverified_header(token)["kid"])
