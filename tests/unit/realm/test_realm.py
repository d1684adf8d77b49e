"""Users, passwords, service accounts, roles."""

from __future__ import annotations

from typing import Any

import pytest

from devstack.realm.export import User
from devstack.realm.realm import Realm
from tests.unit.realm.exports import export_of

_ALICE = {"username": "Alice", "enabled": True, "credentials": [{"type": "password", "value": "päss"}]}
_JOB = {"clientId": "Job", "secret": "s", "serviceAccountsEnabled": True}


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


def _only(realm: Realm) -> User:
    user = realm.authenticate("alice", "päss")
    assert user
    return user
