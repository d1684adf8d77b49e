"""Mistakes in a realm export stop the start with one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from devstack.realm.export import load_export
from devstack.realm.realm import Realm
from ext_authz.errors import ConfigError
from tests.unit.realm.exports import DEMO, export_of, written


def test_demo_realm_is_sound() -> None:
    realm = Realm(load_export(DEMO))
    assert {client.client_id for client in realm.clients()} >= {"web-app", "batch-job", "other-service", "short-lived"}
    assert all(realm.authenticate(name, name) for name in ("alice", "bob", "carol", "dave", "load01", "load12"))


def test_what_we_do_not_use_is_ignored(tmp_path: Path) -> None:
    document = {"realm": "r", "enabled": True, "browserFlow": "browser", "smtpServer": {}, "users": []}
    assert load_export(written(tmp_path, document)).realm == "r"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"realm": 5}, "Expected `str`, got `int` - at `$.realm`"),
        ({"realm": "a/b"}, "matching regex"),
        ({"enabled": False}, "`enabled` is not true"),
        ({"accessTokenLifespan": 0}, "`$.accessTokenLifespan`"),
        ({"accessTokenLifespan": "300"}, "got `str` - at `$.accessTokenLifespan`"),
        ({"clients": {"clientId": "a"}}, "Expected `array`"),
        ({"clients": [{"name": "a"}]}, "missing required field `clientId`"),
        ({"clients": [{"clientId": "a", "publicClient": True}] * 2}, "clients: 'a' is there twice"),
        ({"clients": [{"clientId": "a"}]}, "client 'a': `secret` is missing or masked"),
        ({"clients": [{"clientId": "a", "secret": "**********"}]}, "client 'a': `secret` is missing or masked"),
        (
            {"clients": [{"clientId": "a", "publicClient": True, "attributes": {"access.token.lifespan": "2s"}}]},
            "'2s'; it must be a whole number of seconds",
        ),
        ({"users": [{"username": "A"}, {"username": "a"}]}, "users: 'a' is there twice"),
        ({"users": [{"username": "a", "credentials": [{"type": "password"}]}]}, "user 'a': the password has no plain"),
        ({"users": [{"username": "a", "serviceAccountClientId": "b"}]}, "names 'b', which is no client here"),
    ],
)
def test_mistakes(tmp_path: Path, change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_export(written(tmp_path, {"realm": "r", "enabled": True, **change}))
    assert sentence in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("written_as", "read_as"),
    [
        ("${URL:http://127.0.0.1:8080}/x", "http://127.0.0.1:8080/x"),
        ("${SET:none}/x", 'http://h/"q"/x'),
        ("${SET}", 'http://h/"q"'),
        ("${UNSET}", "${UNSET}"),
        ("${role_view-users}", "${role_view-users}"),
    ],
)
def test_placeholders(tmp_path: Path, written_as: str, read_as: str) -> None:
    client = {"clientId": "c", "publicClient": True, "adminUrl": written_as}
    file = written(tmp_path, {"realm": "r", "enabled": True, "clients": [client]})
    assert load_export(file, {"SET": 'http://h/"q"'}).clients[0].admin_url == read_as


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    file = tmp_path / "realm.json"
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="is not UTF-8 text"):
        load_export(file)


@pytest.mark.parametrize("content", ["", "{", '{"realm": "r"', "[]"])
def test_broken_json(tmp_path: Path, content: str) -> None:
    file = tmp_path / "realm.json"
    file.write_text(content)
    with pytest.raises(ConfigError, match=r"realm export .*realm\.json"):
        load_export(file)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load_export(tmp_path / "nowhere.json")


@pytest.mark.parametrize(
    ("user", "sentence"),
    [
        ({"realmRoles": ["nobody"]}, "realm role 'nobody' of user 'a'"),
        ({"clientRoles": {"c": ["nobody"]}}, "role 'nobody' of client 'c' of user 'a'"),
    ],
)
def test_unknown_role(user: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        Realm(export_of(users=[{"username": "a", "enabled": True, **user}]))


def test_unknown_group_and_unknown_role_of_a_group() -> None:
    with pytest.raises(ConfigError, match="group '/team' of user 'a' is not among `groups`"):
        Realm(export_of(users=[{"username": "a", "groups": ["/team"]}]))
    inner = {"name": "inner", "realmRoles": ["nobody"]}
    with pytest.raises(ConfigError, match="realm role 'nobody' of group '/team/inner'"):
        Realm(export_of(groups=[{"name": "team", "subGroups": [inner]}]))


def test_demo_realm_is_text_json_that_keycloak_reads_too() -> None:
    document = json.loads(DEMO.read_text())
    assert document["realm"] == "tollgate"
    assert all(user["enabled"] for user in document["users"])
