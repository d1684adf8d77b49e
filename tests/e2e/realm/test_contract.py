"""What clients of Keycloak rely on, asserted over the embedded realm and, where there is one, over Keycloak itself.

The second half of the runs is marked `keycloak`.
"""

from __future__ import annotations

import base64
import hashlib
import re

import httpx
import jwt
import pytest

from tests.e2e.realm.client import BATCH, CALLBACK, GATEWAY, Browser, RealmClient, code_in, exchange, sent_back

_UUID = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_PROFILE = {"email_verified", "name", "preferred_username", "given_name", "family_name", "email"}
_ACCESS = {"exp", "iat", "jti", "iss", "aud", "sub", "typ", "azp", "acr", "scope"}
_ROLES = {"realm_access", "resource_access"}


def test_discovery_names_the_same_addresses(idp: RealmClient) -> None:
    document = httpx.get(f"{idp.issuer}/.well-known/openid-configuration").json()
    here = f"{idp.issuer}/protocol/openid-connect"
    expected = {
        "issuer": idp.issuer,
        "authorization_endpoint": f"{here}/auth",
        "token_endpoint": f"{here}/token",
        "introspection_endpoint": f"{here}/token/introspect",
        "userinfo_endpoint": f"{here}/userinfo",
        "end_session_endpoint": f"{here}/logout",
        "jwks_uri": f"{here}/certs",
        "revocation_endpoint": f"{here}/revoke",
    }
    assert {name: document[name] for name in expected} == expected
    assert "S256" in document["code_challenge_methods_supported"]
    assert "RS256" in document["id_token_signing_alg_values_supported"]


def test_key_set_has_a_signing_key_and_an_encryption_key(idp: RealmClient) -> None:
    keys = idp.jwks()
    assert {(key["kty"], key["use"], key["alg"]) for key in keys} == {
        ("RSA", "sig", "RS256"),
        ("RSA", "enc", "RSA-OAEP"),
    }
    for key in keys:
        assert {"kid", "n", "e"} <= key.keys()
        assert not key.keys() & {"d", "p", "q", "k"}, "a private part is published"


def test_access_token_of_a_user(idp: RealmClient) -> None:
    answer = idp.login("alice")
    claims = idp.claims(answer["access_token"], "triton-gateway")
    assert claims.keys() == _ACCESS | _PROFILE | _ROLES | {"sid", "allowed-origins"}
    assert re.fullmatch(f"onrtro:{_UUID}", claims["jti"])
    assert re.fullmatch(_UUID, claims["sub"])
    assert (claims["typ"], claims["azp"], claims["acr"]) == ("Bearer", "web-app", "1")
    assert sorted(claims["aud"]) == ["account", "triton-gateway"]
    assert claims["allowed-origins"] == ["http://127.0.0.1:8080"]
    assert claims["resource_access"]["triton-gateway"] == {"roles": ["infer"]}
    assert sorted(claims["resource_access"]["account"]["roles"]) == [
        "manage-account",
        "manage-account-links",
        "view-profile",
    ]
    assert sorted(claims["realm_access"]["roles"]) == ["default-roles-tollgate", "offline_access", "uma_authorization"]
    assert sorted(claims["scope"].split()) == ["email", "profile"]
    assert claims["exp"] - claims["iat"] == 300
    assert (claims["name"], claims["preferred_username"]) == ("Alice Demo", "alice")
    assert jwt.get_unverified_header(answer["access_token"]).keys() == {"alg", "typ", "kid"}


def test_answer_of_the_token_endpoint(idp: RealmClient) -> None:
    answer = idp.login("alice", scope="openid")
    tokens = {"access_token", "refresh_token", "id_token"}
    assert answer.keys() == tokens | {
        "expires_in",
        "refresh_expires_in",
        "token_type",
        "not-before-policy",
        "session_state",
        "scope",
    }
    # Keycloak begins to count when the session starts: a second may have begun since.
    assert (300 - answer["expires_in"], 1800 - answer["refresh_expires_in"]) in ((0, 0), (0, 1), (1, 1))
    assert answer["token_type"] == "Bearer"
    assert sorted(answer["scope"].split()) == ["email", "openid", "profile"]
    assert answer["session_state"] == idp.claims(answer["access_token"])["sid"]


def test_one_audience_is_a_string(idp: RealmClient) -> None:
    claims = idp.claims(idp.login("load01")["access_token"], "triton-gateway")
    assert claims["aud"] == "triton-gateway"
    assert "realm_access" not in claims
    assert claims["resource_access"] == {"triton-gateway": {"roles": ["infer"]}}


def test_audience_mapper_works_without_a_role(idp: RealmClient) -> None:
    claims = idp.claims(idp.login("carol")["access_token"], "triton-gateway")
    assert "triton-gateway" not in claims["resource_access"]


def test_groups_are_in_every_token_of_a_client_with_the_mapper(idp: RealmClient) -> None:
    answer = idp.login("grace", scope="openid")
    access, identity = idp.claims(answer["access_token"]), idp.claims(answer["id_token"])
    info = idp.userinfo(answer["access_token"]).json()
    assert access["groups"] == identity["groups"] == info["groups"] == ["/team-vision"]
    assert access["resource_access"]["triton-gateway"] == {"roles": ["infer"]}, "the group's role is the member's"
    assert "groups" not in idp.claims(idp.login("alice")["access_token"])


def test_client_without_full_scope_gets_neither_roles_nor_audience(idp: RealmClient) -> None:
    claims = idp.claims(idp.login("alice", "other-service")["access_token"])
    assert claims.keys() == (_ACCESS | _PROFILE | {"sid"}) - {"aud"}


def test_client_may_shorten_the_lifespan(idp: RealmClient) -> None:
    answer = idp.login("alice", "short-lived")
    kid = jwt.get_unverified_header(answer["access_token"])["kid"]
    claims = jwt.decode(answer["access_token"], options={"verify_signature": False})
    assert claims["exp"] - claims["iat"] == 2
    assert answer["expires_in"] in (1, 2), "Keycloak counts from when it answers"
    assert kid in {key["kid"] for key in idp.jwks()}


def test_access_token_of_a_service_account(idp: RealmClient) -> None:
    answer = idp.service_login()
    assert not answer.keys() & {"refresh_token", "session_state", "id_token"}
    assert answer["refresh_expires_in"] == 0
    claims = idp.claims(answer["access_token"], "triton-gateway")
    assert claims.keys() == _ACCESS | {"resource_access", "email_verified", "preferred_username"}
    assert re.fullmatch(f"trrtcc:{_UUID}", claims["jti"])
    assert (claims["azp"], claims["preferred_username"]) == ("batch-job", "service-account-batch-job")
    assert claims["resource_access"] == {"triton-gateway": {"roles": ["infer"]}}
    assert idp.claims(idp.service_login()["access_token"])["sub"] == claims["sub"]


def test_id_token(idp: RealmClient) -> None:
    answer = idp.login("alice", scope="openid")
    claims = idp.claims(answer["id_token"], "web-app")
    envelope = {"exp", "iat", "jti", "iss", "aud", "sub", "typ", "azp", "acr"}
    assert claims.keys() == envelope | _PROFILE | {"sid", "at_hash"}
    assert (claims["typ"], claims["aud"], claims["azp"]) == ("ID", "web-app", "web-app")
    digest = hashlib.sha256(answer["access_token"].encode()).digest()[:16]
    assert claims["at_hash"] == base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def test_refresh_token_is_signed_with_a_secret_of_the_realm(idp: RealmClient) -> None:
    token = idp.login("alice")["refresh_token"]
    header, claims = jwt.get_unverified_header(token), jwt.decode(token, options={"verify_signature": False})
    assert (header["alg"], claims["typ"], claims["aud"]) == ("HS512", "Refresh", idp.issuer)
    common = {"exp", "iat", "jti", "iss", "aud", "sub", "typ", "azp", "sid", "scope"}
    assert claims.keys() == common | {"aud_x", "prov", "reuse_id"}
    assert header["kid"] not in {key["kid"] for key in idp.jwks()}


def test_refresh_keeps_the_session_and_replaces_the_token(idp: RealmClient) -> None:
    first = idp.login("bob")
    second = idp.refresh(first["refresh_token"]).json()
    claims = idp.claims(second["access_token"], "triton-gateway")
    assert claims["jti"].startswith("onrtrt:")
    assert claims["sid"] == first["session_state"] == second["session_state"]
    assert second["refresh_token"] != first["refresh_token"]


def test_second_use_of_a_refresh_token_ends_the_clients_session(idp: RealmClient) -> None:
    first = idp.login("bob")
    second = idp.refresh(first["refresh_token"]).json()
    again = idp.refresh(first["refresh_token"])
    assert (again.status_code, again.json()["error"]) == (400, "invalid_grant")
    assert idp.refresh(second["refresh_token"]).json()["error"] == "invalid_grant"
    assert not idp.is_active(second["access_token"])


@pytest.mark.parametrize("token", ["not a token", "a.b.c", ""])
def test_junk_is_no_refresh_token(idp: RealmClient, token: str) -> None:
    assert idp.refresh(token).status_code == 400


def test_refresh_token_of_another_client_and_other_kinds_of_token_are_refused(idp: RealmClient) -> None:
    answer = idp.login("bob", scope="openid")
    for presented, client in (
        (answer["refresh_token"], "short-lived"),
        (answer["access_token"], "web-app"),
        (answer["id_token"], "web-app"),
    ):
        refused = idp.refresh(presented, client)
        assert (refused.status_code, refused.json()["error"]) == (400, "invalid_grant")
    assert idp.is_active(answer["access_token"]), "somebody else's mistake ended the session"


_WRONG_CLIENT = {"invalid_client", "unauthorized_client"}


@pytest.mark.parametrize(
    ("form", "auth", "status", "errors"),
    [
        ({"grant_type": "client_credentials"}, ("batch-job", "wrong"), 401, _WRONG_CLIENT),
        ({"grant_type": "client_credentials"}, ("nobody", "wrong"), 401, _WRONG_CLIENT),
        ({"grant_type": "client_credentials", "client_id": "web-app"}, None, 401, _WRONG_CLIENT),
        ({"grant_type": "client_credentials", "client_id": "batch-job"}, None, 401, _WRONG_CLIENT),
        ({"grant_type": "password"}, None, 401, _WRONG_CLIENT),
        ({"grant_type": "password", "username": "alice", "password": "alice"}, BATCH, 400, {"unauthorized_client"}),
        (
            {"grant_type": "password", "client_id": "web-app", "username": "alice", "password": "wrong"},
            None,
            400,
            {"invalid_grant"},
        ),
        (
            {"grant_type": "password", "client_id": "web-app", "username": "nobody", "password": "x"},
            None,
            400,
            {"invalid_grant"},
        ),
        (
            {"grant_type": "password", "client_id": "web-app", "username": "alice", "password": "alice", "scope": "no"},
            None,
            400,
            {"invalid_scope"},
        ),
        ({"grant_type": "nonsense", "client_id": "web-app"}, None, 400, {"unsupported_grant_type"}),
    ],
)
def test_refusals_of_the_token_endpoint(
    idp: RealmClient, form: dict[str, str], auth: tuple[str, str] | None, status: int, errors: set[str]
) -> None:
    refused = idp.token(form, auth)
    assert (refused.status_code, refused.json()["error"] in errors) == (status, True), refused.text
    assert "no-store" in refused.headers["cache-control"]


def test_client_without_a_service_account_gets_no_token_of_one(idp: RealmClient) -> None:
    refused = idp.token({"grant_type": "client_credentials"}, GATEWAY)
    assert refused.status_code in (400, 401)  # RFC 6749 section 5.2 says 400, Keycloak 401
    assert refused.json()["error"] == "unauthorized_client"


def test_secret_may_come_in_the_form(idp: RealmClient) -> None:
    form = {"grant_type": "client_credentials", "client_id": "batch-job", "client_secret": "batch-job-secret"}
    assert idp.token(form).status_code == 200


def test_introspection(idp: RealmClient) -> None:
    token = idp.login("alice")["access_token"]
    answer = idp.introspect(token)
    claims = idp.claims(token)
    extra = {"client_id": "web-app", "username": "alice", "token_type": "Bearer", "active": True}
    assert {name: answer[name] for name in claims} == claims
    assert {name: answer[name] for name in extra} == extra
    assert idp.introspect("junk") == {"active": False}


def test_introspection_needs_a_client_with_a_secret(idp: RealmClient) -> None:
    token = idp.login("alice")["access_token"]
    for form, auth in (
        ({"token": token}, None),
        ({"token": token}, ("triton-gateway", "wrong")),
        ({"token": token, "client_id": "web-app"}, None),
    ):
        refused = idp.http.post("/token/introspect", data=form, auth=auth or httpx.USE_CLIENT_DEFAULT)
        assert refused.status_code in (401, 403)
        assert "active" not in refused.json()


def test_revoked_access_token_goes_alone(idp: RealmClient) -> None:
    answer = idp.login("alice")
    assert idp.revoke(answer["access_token"]).status_code == 200
    assert not idp.is_active(answer["access_token"])
    assert idp.refresh(answer["refresh_token"]).status_code == 200


def test_revoked_refresh_token_takes_the_clients_session_with_it(idp: RealmClient) -> None:
    answer = idp.login("alice")
    assert idp.revoke(answer["refresh_token"]).status_code == 200
    assert idp.refresh(answer["refresh_token"]).json()["error"] == "invalid_grant"
    assert not idp.is_active(answer["access_token"])


def test_revocation_of_junk_succeeds_and_of_somebody_elses_token_does_not(idp: RealmClient) -> None:
    token = idp.login("alice")["access_token"]
    assert idp.revoke("junk").status_code == 200
    assert idp.revoke(token, "other-service").status_code == 400
    assert idp.is_active(token)


def test_userinfo(idp: RealmClient) -> None:
    answer = idp.login("alice", scope="openid")
    info = idp.userinfo(answer["access_token"]).json()
    assert info.keys() == {"sub"} | _PROFILE
    assert info["sub"] == idp.claims(answer["access_token"])["sub"]


def test_userinfo_refusals_carry_a_challenge(idp: RealmClient) -> None:
    without, junk = idp.userinfo(None), idp.userinfo("a.b.c")
    unscoped = idp.userinfo(idp.login("alice")["access_token"])
    assert (without.status_code, junk.status_code, unscoped.status_code) == (401, 401, 403)
    assert without.headers["www-authenticate"] == 'Bearer realm="tollgate"'
    assert 'error="invalid_token"' in junk.headers["www-authenticate"]
    assert 'error="insufficient_scope"' in unscoped.headers["www-authenticate"]


def test_logout_with_the_refresh_token(idp: RealmClient) -> None:
    answer = idp.login("bob", scope="openid")
    form = {"client_id": "web-app", "refresh_token": answer["refresh_token"]}
    assert idp.http.post("/logout", data=form).status_code == 204
    assert idp.refresh(answer["refresh_token"]).json()["error"] == "invalid_grant"
    assert not idp.is_active(answer["access_token"])
    assert idp.userinfo(answer["access_token"]).status_code == 401


def test_logout_with_junk_is_refused(idp: RealmClient) -> None:
    refused = idp.http.post("/logout", data={"client_id": "web-app", "refresh_token": "junk"})
    assert (refused.status_code, refused.json()["error"]) == (400, "invalid_grant")


def test_logout_with_an_id_token_leads_back_to_the_application(idp: RealmClient) -> None:
    answer = idp.login("bob", scope="openid")
    query = {"post_logout_redirect_uri": "http://127.0.0.1:8080/bye", "state": "s"}
    left = idp.http.get("/logout", params={"id_token_hint": answer["id_token"], **query})
    assert (left.status_code, left.headers["location"]) == (302, "http://127.0.0.1:8080/bye?state=s")
    assert not idp.is_active(answer["access_token"])


def test_logout_never_leads_elsewhere(idp: RealmClient) -> None:
    answer = idp.login("bob", scope="openid")
    query = {"id_token_hint": answer["id_token"], "post_logout_redirect_uri": "http://evil.example/"}
    assert "location" not in idp.http.get("/logout", params=query).headers


def test_login_with_the_browser(idp: RealmClient) -> None:
    back = sent_back(_logged_in(Browser(idp)))
    assert (back["state"], back["iss"]) == ("st", idp.issuer)
    answer = exchange(idp, back["code"]).json()
    access, identity = idp.claims(answer["access_token"], "triton-gateway"), idp.claims(answer["id_token"], "web-app")
    assert access["jti"].startswith("onrtac:")
    assert "nonce" not in access
    assert identity["nonce"] == "n-1"
    assert access["auth_time"] == identity["auth_time"] <= access["iat"]


def test_second_login_needs_no_password(idp: RealmClient) -> None:
    browser = Browser(idp)
    first = exchange(idp, code_in(_logged_in(browser))).json()
    second = exchange(idp, code_in(browser.authorize())).json()
    assert second["session_state"] == first["session_state"]


def test_second_use_of_a_code_ends_the_session(idp: RealmClient) -> None:
    code = Browser(idp).log_in("alice")
    answer = exchange(idp, code).json()
    assert exchange(idp, code).json()["error"] == "invalid_grant"
    assert not idp.is_active(answer["access_token"])


@pytest.mark.parametrize("change", [{"code_verifier": "w" * 64}, {"redirect_uri": "http://127.0.0.1:8080/other"}])
def test_code_is_bound_to_its_request(idp: RealmClient, change: dict[str, str]) -> None:
    refused = exchange(idp, Browser(idp).log_in("alice"), **change)
    assert (refused.status_code, refused.json()["error"]) == (400, "invalid_grant")


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"code_challenge": "", "code_challenge_method": ""}, "invalid_request"),
        ({"code_challenge": "v" * 64, "code_challenge_method": "plain"}, "invalid_request"),
        ({"response_type": "nonsense"}, "unsupported_response_type"),
        ({"scope": "openid nonsense"}, "invalid_scope"),
        ({"prompt": "none"}, "login_required"),
    ],
)
def test_refused_login_leads_back_with_the_error(idp: RealmClient, change: dict[str, str], error: str) -> None:
    refused = Browser(idp).authorize(**change)
    assert refused.status_code == 302
    back = sent_back(refused)
    assert (back["error"], back["state"], back["iss"]) == (error, "st", idp.issuer)


@pytest.mark.parametrize(
    "change",
    [
        {"redirect_uri": ""},
        {"redirect_uri": "http://evil.example/"},
        {"redirect_uri": "http://127.0.0.1:8080.evil.example/callback"},
        {"redirect_uri": "http://127.0.0.1:8080@evil.example/callback"},
        {"redirect_uri": "javascript:alert(1)"},
        {"redirect_uri": 'http://evil.example/"é'},
        {"client_id": "nobody"},
        {"client_id": "other-service", "redirect_uri": CALLBACK},
    ],
)
def test_login_never_leads_elsewhere(idp: RealmClient, change: dict[str, str]) -> None:
    refused = Browser(idp).authorize(**change)
    assert refused.status_code in (400, 403)
    assert "location" not in refused.headers


def _logged_in(browser: Browser) -> httpx.Response:
    return browser.submit(browser.authorize(), username="alice", password="alice")
