"""Audiences, roles and origins in a token."""

from __future__ import annotations

from typing import Any

import pytest

from devstack.realm.export import User
from devstack.realm.realm import ClaimSet, Realm, access_claims, profile
from tests.unit.realm.exports import export_of

_ROLES = {"client": {name: [{"name": "use"}] for name in ("app", "api", "other")}}
_EVERYWHERE = {"app": ["use"], "api": ["use"], "other": ["use"]}


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


def _claims(client: dict[str, Any]) -> ClaimSet:
    user = {"username": "u", "enabled": True, "clientRoles": _EVERYWHERE, "credentials": [{"value": "p"}]}
    export = export_of(roles=_ROLES, clients=[{"clientId": "app", "publicClient": True, **client}], users=[user])
    realm = Realm(export)
    known, somebody = realm.client("app"), realm.authenticate("u", "p")
    assert known
    assert somebody
    return access_claims(realm, known, somebody, "openid")
