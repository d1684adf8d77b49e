"""Whatever arrives is answered with a refusal, never with a server error."""

from __future__ import annotations

import base64

import pytest

from tests.e2e.realm.client import BATCH, GATEWAY, RealmClient
from tests.realm_admin import RealmAdmin

_ALSO = {("/revoke", 200), ("/token/introspect", 403)}
_FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@pytest.mark.parametrize("path", ["/token", "/token/introspect", "/revoke"])
@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"", {}),
        (b"", _FORM),
        (b"grant_type=password&grant_type=client_credentials", _FORM),
        (b"grant_type=%ff%fe&token=%00&client_id=%22%5c%0a", _FORM),
        (b"grant_type=refresh_token&client_id=web-app&refresh_token=" + b"a." * 100_000, _FORM),
        (b"token=" + b"[" * 200_000 + b"&client_id=web-app", _FORM),
        (b'{"grant_type": "password"}', {"Content-Type": "application/json"}),
        (b"--x\r\nnonsense", {"Content-Type": "multipart/form-data; boundary=x"}),
        (b"nonsense", {"Content-Type": "multipart/form-data"}),
        (b"grant_type=password", {**_FORM, "Authorization": "Basic \u00e9\u00e9"}),
        (b"grant_type=password", {**_FORM, "Authorization": "Basic"}),
        (b"grant_type=password", {**_FORM, "Authorization": "Basic " + base64.b64encode(b"\xff\xfe:\xff").decode()}),
        (b"grant_type=password", {**_FORM, "Authorization": "Basic " + base64.b64encode(b"no colon").decode()}),
        (b"grant_type=password", {**_FORM, "Authorization": "Bearer x"}),
    ],
)
def test_junk_at_the_endpoints(realm: RealmClient, path: str, body: bytes, headers: dict[str, str]) -> None:
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    response = realm.http.post(path, content=body, headers=raw)
    assert response.status_code in (400, 401) or (path, response.status_code) in _ALSO


@pytest.mark.parametrize(
    "token",
    [
        "",
        ".",
        "..",
        "a.b.c",
        "\u00e9.\u00e9.\u00e9",
        "eyJhbGciOiJub25lIn0.e30.",
        "eyJhbGciOiJSUzI1NiIsImtpZCI6WzFdfQ.e30.AA",
        "eyJhbGciOiJSUzI1NiIsImNyaXQiOlsieCJdfQ.e30.AA",
        "W10.e30.AA",
    ],
)
def test_junk_tokens(realm: RealmClient, token: str) -> None:
    assert realm.introspect(token) == {"active": False}
    assert realm.revoke(token).status_code == 200
    assert realm.refresh(token).status_code == 400
    bearer = realm.http.get("/userinfo", headers=[(b"Authorization", f"Bearer {token or 'x'}".encode())])
    assert bearer.status_code == 401
    cookie = realm.http.get("/logout", headers=[(b"Cookie", f"DEVREALM_IDENTITY={token}".encode())])
    assert cookie.status_code == 200
    assert realm.http.get("/logout", params={"id_token_hint": token}).status_code == (400 if token else 200)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/users"),
        ("PUT", "/users/{user}"),
        ("PUT", "/users/{user}/reset-password"),
        ("POST", "/users/{user}/role-mappings/realm"),
        ("DELETE", "/users/{user}/role-mappings/realm"),
        ("PUT", "/clients/{client}"),
        ("PUT", ""),
    ],
)
def test_junk_at_the_admin_api(realm: RealmClient, method: str, path: str) -> None:
    with RealmAdmin(realm.base_url) as admin:
        named = path.format(user=admin.user_id("alice"), client=admin.client_uuid("web-app"))
        before = admin.get("/users", username="alice")
        for body in (b"", b"{", b"7", b'{"enabled": 7, "value": 7, "notBefore": "x"}', b"\xff", b"[" * 100_000):
            assert admin.http.request(method, named, content=body).status_code == 400, body[:20]
        assert admin.http.request(method, named, content=b" " * 2_000_000).status_code == 413
        assert admin.get("/users", username="alice") == before


def test_client_that_could_not_be_imported_is_no_change(realm: RealmClient) -> None:
    with RealmAdmin(realm.base_url) as admin:
        path = f"/clients/{admin.client_uuid('web-app')}"
        wrong = {**admin.get(path), "attributes": {"access.token.lifespan": "soon"}}
        refused = admin.http.put(path, json=wrong)
        assert (refused.status_code, "'soon'" in refused.json()["errorMessage"]) == (400, True)
        assert realm.login("alice")["expires_in"] == 300


@pytest.mark.parametrize("query", ["first=x", "max=1.5", "max=99999999999999", "dateFrom=%00", "dateTo=2026-99-99"])
def test_junk_in_a_query(realm: RealmClient, query: str) -> None:
    with RealmAdmin(realm.base_url) as admin:
        assert admin.http.get(f"/admin-events?{query}").status_code in (400, 404)


def test_tampered_and_mixed_up_tokens_are_inactive(realm: RealmClient) -> None:
    answer = realm.login("alice", scope="openid")
    header, payload, signature = answer["access_token"].split(".")
    other = realm.login("dave")["access_token"].split(".")
    for token in (
        f"{header}.{other[1]}.{signature}",
        f"{header}.{payload}.{other[2]}",
        f"{header}.{payload}.",
        answer["id_token"],
        answer["refresh_token"],
    ):
        assert not realm.is_active(token)


def test_introspection_is_for_the_audience_only(realm: RealmClient) -> None:
    ours, others = realm.login("alice")["access_token"], realm.login("alice", "other-service")["access_token"]
    answers = [
        realm.http.post("/token/introspect", data={"token": token}, auth=auth).json()["active"]
        for token, auth in ((ours, GATEWAY), (ours, BATCH), (others, GATEWAY))
    ]
    assert answers == [True, False, False]


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_token_endpoint_takes_post_only(realm: RealmClient, method: str) -> None:
    query = {"grant_type": "password", "client_id": "web-app", "username": "alice", "password": "alice"}
    assert realm.http.request(method, "/token", params=query).status_code == 405
    assert realm.http.post("/token", params=query).status_code == 400, "a password in the query was taken"
