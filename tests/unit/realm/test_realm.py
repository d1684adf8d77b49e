"""Users, passwords, service accounts, roles; audiences, roles and origins in a token."""

from __future__ import annotations

from typing import Any

import pytest

from devstack.realm.claims import ClaimSet, access_claims, profile
from devstack.realm.export import User
from devstack.realm.realm import Realm
from tests.unit.realm.exports import export_of

_ALICE = {"username": "Alice", "enabled": True, "credentials": [{"type": "password", "value": "päss"}]}
_JOB = {"clientId": "Job", "secret": "s", "serviceAccountsEnabled": True}
_ROLES = {"client": {name: [{"name": "use"}] for name in ("app", "api", "other")}}
_EVERYWHERE = {"app": ["use"], "api": ["use"], "other": ["use"]}


@pytest.mark.parametrize(
    ("name", "password", "known"),
    [
        ("alice", "päss", True),
        ("ALICE", "päss", True),
        ("alice", "pass", False),
        ("alice", "", False),
        ("bob", "päss", False),
    ],
)
def test_password(name: str, password: str, known: bool) -> None:  # noqa: FBT001  # a table's column
    assert (Realm(export_of(users=[_ALICE])).authenticate(name, password) is not None) == known


@pytest.mark.parametrize(
    "change",
    [
        {"enabled": False},
        {"credentials": []},
        {"credentials": [{"type": "otp", "value": "päss"}]},
        {"serviceAccountClientId": "Job"},
    ],
)
def test_who_cannot_log_in(change: dict[str, Any]) -> None:
    realm = Realm(export_of(users=[{**_ALICE, **change}], clients=[_JOB]))
    assert realm.authenticate("alice", "päss") is None


def test_disabled_client_is_unknown() -> None:
    assert Realm(export_of(clients=[{**_JOB, "enabled": False}])).client("Job") is None


def test_service_account_is_made_when_the_export_has_none() -> None:
    realm = Realm(export_of(clients=[_JOB]))
    client = realm.client("Job")
    assert client
    account = realm.service_account(client)
    assert account
    assert account.username == "service-account-job"


def test_disabled_service_account_is_none() -> None:
    account = {"username": "service-account-job", "enabled": False, "serviceAccountClientId": "Job"}
    realm = Realm(export_of(clients=[_JOB], users=[account]))
    client = realm.client("Job")
    assert client
    assert realm.service_account(client) is None


def test_ids_are_kept_or_follow_from_the_name() -> None:
    first, second = (_only(Realm(export_of(users=[_ALICE]))) for _ in range(2))
    assert first.id == second.id != ""
    assert _only(Realm(export_of(users=[{**_ALICE, "id": "own"}]))).id == "own"
    assert _only(Realm(export_of(realm="other", users=[_ALICE]))).id != first.id


def test_composite_roles_bring_others_along_and_may_be_circular() -> None:
    roles = {
        "realm": [{"name": "lead", "composites": {"realm": ["member"], "client": {"c": ["use"]}}}, {"name": "member"}],
        "client": {"c": [{"name": "use", "composites": {"realm": ["lead"]}}]},
    }
    realm = Realm(export_of(roles=roles, users=[{**_ALICE, "realmRoles": ["lead"]}]))
    assert set(realm.roles(_only(realm))) == {("", "lead"), ("", "member"), ("c", "use")}


def test_default_roles_are_those_of_keycloak() -> None:
    realm = Realm(export_of(users=[{**_ALICE, "realmRoles": ["default-roles-r"]}]))
    account = {"view-profile", "manage-account", "manage-account-links"}
    expected = {("", name) for name in ("default-roles-r", "offline_access", "uma_authorization")}
    assert set(realm.roles(_only(realm))) == expected | {("account", name) for name in account}


def test_export_may_define_the_default_roles_anew() -> None:
    roles = {"realm": [{"name": "default-roles-r", "composites": {"realm": ["offline_access"]}}]}
    realm = Realm(export_of(roles=roles, users=[{**_ALICE, "realmRoles": ["default-roles-r"]}]))
    assert set(realm.roles(_only(realm))) == {("", "default-roles-r"), ("", "offline_access")}


def test_roles_at_other_clients_become_audiences_but_not_the_clients_own() -> None:
    claims = _claims({})
    assert claims["aud"] == ["api", "other"]
    assert claims["resource_access"] == {name: {"roles": ["use"]} for name in _EVERYWHERE}


def test_without_full_scope_only_the_clients_own_roles_remain() -> None:
    claims = _claims({"fullScopeAllowed": False})
    assert "aud" not in claims
    assert claims["resource_access"] == {"app": {"roles": ["use"]}}


@pytest.mark.parametrize(
    ("config", "audience"),
    [
        ({"included.client.audience": "gw", "access.token.claim": "true"}, "gw"),
        ({"included.custom.audience": "https://gw", "access.token.claim": "true"}, "https://gw"),
        ({"included.client.audience": "gw", "access.token.claim": "false"}, None),
        ({"included.client.audience": "gw"}, None),
        ({"access.token.claim": "true"}, None),
    ],
)
def test_audience_mapper(config: dict[str, str], audience: str | None) -> None:
    mapper = {"name": "m", "protocolMapper": "oidc-audience-mapper", "config": config}
    claims = _claims({"fullScopeAllowed": False, "protocolMappers": [mapper]})
    assert claims.get("aud") == audience


def test_other_mappers_have_no_effect() -> None:
    config = {"included.client.audience": "gw", "access.token.claim": "true"}
    mapper = {"name": "m", "protocolMapper": "oidc-hardcoded-claim-mapper", "config": config}
    assert "aud" not in _claims({"fullScopeAllowed": False, "protocolMappers": [mapper]})


@pytest.mark.parametrize(
    ("origins", "expected"),
    [
        ([], None),
        (["http://a"], ["http://a"]),
        (["+"], ["http://one:8080", "https://two"]),
        (["+", "http://a", "https://two"], ["http://a", "https://two", "http://one:8080"]),
    ],
)
def test_plus_stands_for_the_origins_of_the_redirect_uris(origins: list[str], expected: list[str] | None) -> None:
    uris = ["http://one:8080/a/*", "http://one:8080/b", "https://two/*", "/relative/*"]
    assert _claims({"webOrigins": origins, "redirectUris": uris}).get("allowed-origins") == expected


def test_profile_leaves_out_what_is_not_known() -> None:
    assert profile(User("Bob")) == {"email_verified": False, "preferred_username": "bob"}
    assert profile(User("bob", last_name="B"))["name"] == "B"


def _only(realm: Realm) -> User:
    user = realm.authenticate("alice", "päss")
    assert user
    return user


def _claims(client: dict[str, Any]) -> ClaimSet:
    user = {"username": "u", "enabled": True, "clientRoles": _EVERYWHERE, "credentials": [{"value": "p"}]}
    export = export_of(roles=_ROLES, clients=[{"clientId": "app", "publicClient": True, **client}], users=[user])
    realm = Realm(export)
    known, somebody = realm.client("app"), realm.authenticate("u", "p")
    assert known
    assert somebody
    return access_claims(realm, known, somebody, "openid")
