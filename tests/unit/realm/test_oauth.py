"""Redirect URIs and the switches of a client."""

from __future__ import annotations

import msgspec
import pytest

from devstack.realm.claims import granted_scope, refresh_scope
from devstack.realm.clients import OAuthClient, RedirectUris
from devstack.realm.export import Client


@pytest.mark.parametrize("uri", ["http://a:1/x", "http://a:1/app/", "http://a:1/app/cb?x=1", "my.app:/callback"])
def test_registered_redirect_uri(uri: str) -> None:
    assert uri in RedirectUris(["http://a:1/x", "http://a:1/app/*", "my.app:/callback"])


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "http://a:1/x/",
        "http://a:1/X",
        "http://a:1/ap",
        "http://a:1/app/../x2",
        "http://a:1/app/%2e%2E/x2",
        "http://a:1/app/#fragment",
        "http://a:1/app/\\evil",
        "http://a:1/app/\nx",
        "http://a:1/app/é",
        "https://a:1/app/",
        "my.app:/callback/more",
    ],
)
def test_other_redirect_uri(uri: str) -> None:
    assert uri not in RedirectUris(["http://a:1/x", "http://a:1/app/*", "my.app:/callback"])


@pytest.mark.parametrize(
    ("uri", "known"),
    [
        ("http://127.0.0.1/cb", True),
        ("http://127.0.0.1:8080/cb", True),
        ("http://127.0.0.1:8080/cb2", False),
        ("http://127.0.0.1:8080.evil/cb", False),
        ("http://127.0.0.1:80@evil/cb", False),
        ("http://localhost:8080/app/x", True),
        ("http://localhost.evil:8080/app/x", False),
        ("https://127.0.0.1:8080/cb", False),
    ],
)
def test_a_program_on_this_machine_chooses_its_port(uri: str, known: bool) -> None:  # noqa: FBT001  # a table's column
    assert (uri in RedirectUris(["http://127.0.0.1/cb", "http://localhost/app/*"])) == known


@pytest.mark.parametrize("uri", ["http://a@evil/", "javascript:alert(1)", "file:///etc/passwd", "//evil"])
def test_even_a_bare_wildcard_leads_to_web_pages_only(uri: str) -> None:
    assert uri not in RedirectUris(["*"])


@pytest.mark.parametrize(
    ("attribute", "allowed"),
    [(None, []), ("-", []), ("+", ["http://a/x"]), ("http://b/y##http://c/*", ["http://b/y", "http://c/z"])],
)
def test_post_logout_redirect_uris(attribute: str | None, allowed: list[str]) -> None:
    attributes = {"post.logout.redirect.uris": attribute} if attribute else {}
    registered = _client(redirectUris=["http://a/x"], attributes=attributes).client_metadata[
        "post_logout_redirect_uris"
    ]
    assert [uri for uri in ("http://a/x", "http://b/y", "http://c/z") if uri in registered] == allowed


@pytest.mark.parametrize(
    ("switch", "grant"),
    [
        ("standardFlowEnabled", "authorization_code"),
        ("directAccessGrantsEnabled", "password"),
        ("serviceAccountsEnabled", "client_credentials"),
    ],
)
def test_each_grant_has_its_switch(switch: str, grant: str) -> None:
    assert _client(**{switch: True}).check_grant_type(grant)
    assert not _client(**{switch: False}).check_grant_type(grant)
    assert not _client(**{switch: True, "bearerOnly": True}).check_grant_type(grant)


def test_secret_is_compared_whole_and_an_empty_one_never_fits() -> None:
    client = _client(secret="geheim-ü")
    assert client.check_client_secret("geheim-ü")
    assert not client.check_client_secret("geheim")
    assert not _client(secret="").check_client_secret("")


def test_public_clients_have_no_secret_and_confidential_ones_must_show_it() -> None:
    public, confidential = _client(publicClient=True), _client(secret="s")
    methods = ("none", "client_secret_basic", "client_secret_post")
    assert [public.check_endpoint_auth_method(method, "token") for method in methods] == [True, False, False]
    assert [confidential.check_endpoint_auth_method(method, "token") for method in methods] == [False, True, True]


@pytest.mark.parametrize(
    ("requested", "granted"),
    [
        (None, "profile email"),
        ("", "profile email"),
        ("openid", "openid profile email"),
        ("email phone openid", "openid profile email phone"),
        ("roles basic", "profile email"),
        ("openid offline_access", None),
        ("nonsense", None),
    ],
)
def test_scope(requested: str | None, granted: str | None) -> None:
    assert granted_scope(requested) == granted


def test_scope_of_a_refresh_token_leads_back_to_the_same_scope() -> None:
    granted = granted_scope("openid address")
    assert granted_scope(refresh_scope(granted or "")) == granted


def _client(**fields: object) -> OAuthClient:
    return OAuthClient(msgspec.convert({"clientId": "c", **fields}, Client))
