"""What an administrator does to users, and what the realm then tells its clients: over both identity providers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import jwt
import pytest

from tests.e2e.realm.client import VERIFIER, Browser, RealmClient
from tests.http_server import running_http_server
from tests.realm_admin import CONSOLE, RealmAdmin
from tests.services import free_port

Json = dict[str, Any]
CONSOLE_CALLBACK = "http://127.0.0.1:7777/tollgate/callback"
LOGOUT = "http://schemas.openid.net/event/backchannel-logout"


@pytest.fixture
def told(admin: RealmAdmin) -> Iterator[list[tuple[str, str, str]]]:
    """What came for the console, as path, content type and token, while the realm is told to send it here."""
    received: list[tuple[str, str, str]] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            token = parse_qs(body)["logout_token"][0] if body.startswith("logout_token=") else body
            received.append((self.path, self.headers["Content-Type"], token))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Quiet."""

    with running_http_server(Receiver) as port:
        admin.send_signals_to(f"http://127.0.0.1:{port}")
        yield received
    admin.send_signals_to("http://127.0.0.1:8080")


def console_login(idp: RealmClient, user: str) -> Json:
    """At the login page, for the client of the console."""
    page = Browser(idp)
    sent = page.submit(
        page.authorize(client_id="tollgate-console", redirect_uri=CONSOLE_CALLBACK), username=user, password=user
    )
    code = parse_qs(urlsplit(sent.headers["location"]).query)["code"][0]
    form = {"grant_type": "authorization_code", "code": code, "redirect_uri": CONSOLE_CALLBACK}
    answer: Json = idp.token({**form, "code_verifier": VERIFIER}, CONSOLE).raise_for_status().json()
    return answer


def refreshed(idp: RealmClient, answer: Json) -> Json:
    form = {"grant_type": "refresh_token", "refresh_token": answer["refresh_token"]}
    document: Json = idp.token(form, CONSOLE).json()
    return document


def test_logout_token(idp: RealmClient, admin: RealmAdmin, told: list[tuple[str, str, str]]) -> None:
    answer = console_login(idp, admin.user("infer"))
    back = {"post_logout_redirect_uri": "http://127.0.0.1:7777/tollgate/bye", "state": "s"}
    left = idp.http.get("/logout", params={"id_token_hint": answer["id_token"], **back})
    assert left.headers["location"] == "http://127.0.0.1:7777/tollgate/bye?state=s"
    [(path, kind, token)] = told
    assert (path, kind) == ("/tollgate/signals/backchannel-logout", "application/x-www-form-urlencoded")
    assert jwt.get_unverified_header(token)["typ"] == "logout+jwt"
    claims = idp.claims(token, "tollgate-console")
    assert claims.keys() == {"exp", "iat", "jti", "iss", "aud", "sub", "typ", "sid", "events"}
    assert (claims["typ"], claims["sid"]) == ("Logout", answer["session_state"])
    assert claims["exp"] - claims["iat"] == 120
    assert claims["events"] == {LOGOUT: {}, "revoke_offline_access": True}


def test_every_way_to_end_a_session_tells_the_client_once(
    idp: RealmClient, admin: RealmAdmin, told: list[tuple[str, str, str]]
) -> None:
    user = admin.user("infer")
    by_refresh, by_session, first, second = (console_login(idp, user) for _ in range(4))
    form = {"refresh_token": by_refresh["refresh_token"]}
    assert idp.http.post("/logout", data=form, auth=CONSOLE).status_code == 204
    admin.end_session(by_session["session_state"])
    admin.log_out(user)
    sids = [idp.claims(token)["sid"] for _, _, token in told]
    assert sids[:2] == [by_refresh["session_state"], by_session["session_state"]]
    assert sorted(sids[2:]) == sorted(one["session_state"] for one in (first, second))
    assert refreshed(idp, first)["error_description"] == "Session not active"


def test_what_no_signal_says(idp: RealmClient, admin: RealmAdmin, told: list[tuple[str, str, str]]) -> None:
    user = admin.user("infer")
    answer = console_login(idp, user)
    admin.reset_password(user, "another")
    answer = refreshed(idp, answer)
    assert "access_token" in answer, "a session ended with the password"
    admin.change(user, enabled=False)
    assert refreshed(idp, answer)["error_description"] == "User disabled"
    assert not idp.is_active(answer["access_token"])
    admin.change(user, enabled=True)
    admin.delete(user)
    assert not idp.is_active(answer["access_token"])
    assert told == []


def test_roles_and_groups_of_the_next_token(idp: RealmClient, admin: RealmAdmin) -> None:
    user = admin.user("infer")
    admin.remove_client_role(user, "infer")
    admin.add_realm_role(user, "tollgate-admin")
    claims = idp.claims(idp.login(user)["access_token"])
    assert "triton-gateway" not in claims.get("resource_access", {})
    assert "tollgate-admin" in claims["realm_access"]["roles"]
    admin.remove_realm_role(user, "tollgate-admin")
    admin.join(user, "/team-vision")
    claims = idp.claims(idp.login(user)["access_token"])
    assert claims["groups"] == ["/team-vision"]
    assert claims["resource_access"]["triton-gateway"] == {"roles": ["infer"]}
    admin.leave(user, "/team-vision")
    assert "groups" not in idp.claims(idp.login(user)["access_token"])


@contextmanager
def not_before(admin: RealmAdmin) -> Iterator[int]:
    """A second after the tokens of the test; lifted again."""
    moment = int(time.time()) + 1
    deadline = time.monotonic() + 5
    while time.time() < moment and time.monotonic() < deadline:
        time.sleep(0.05)
    try:
        yield moment
    finally:
        admin.http.put("", json={"notBefore": 0}).raise_for_status()


def test_not_before(idp: RealmClient, admin: RealmAdmin, told: list[tuple[str, str, str]]) -> None:
    answer = console_login(idp, admin.user("infer"))
    with not_before(admin) as moment:
        outcome = admin.push_not_before(moment)
        assert len(outcome["successRequests"]) == 1
        assert not idp.is_active(answer["access_token"])
        assert refreshed(idp, answer)["error_description"] == "Stale token"
        assert idp.login("alice")["not-before-policy"] == moment
    [(path, kind, token)] = told
    assert (path, kind) == ("/tollgate/signals/k_push_not_before", "text/plain; charset=ISO-8859-1")
    claims = idp.action(token)
    assert claims.keys() == {"id", "expiration", "resource", "action", "notBefore"}
    named = (claims["resource"], claims["action"], claims["notBefore"])
    assert named == ("tollgate-console", "PUSH_NOT_BEFORE", moment)
    assert 0 < claims["expiration"] - time.time() <= 30


def test_logout_of_everyone(idp: RealmClient, admin: RealmAdmin, told: list[tuple[str, str, str]]) -> None:
    answer = console_login(idp, admin.user("infer"))
    try:
        admin.http.post("/logout-all").raise_for_status()
        # By either of two things that it does: tokens of an earlier second are stale, and the session has ended.
        assert refreshed(idp, answer)["error_description"] in {"Stale token", "Session not active"}
    finally:
        admin.http.put("", json={"notBefore": 0}).raise_for_status()
    [(path, _, token)] = told
    assert (path, idp.action(token)["action"]) == ("/tollgate/signals/k_logout", "LOGOUT")


def test_client_that_does_not_answer_is_reported(idp: RealmClient, admin: RealmAdmin) -> None:
    admin.send_signals_to(f"http://127.0.0.1:{free_port()}")
    assert list(admin.http.post("/push-revocation").json()) == ["failedRequests"]
    answer = console_login(idp, admin.user("infer"))
    admin.end_session(answer["session_state"])
    assert refreshed(idp, answer)["error_description"] == "Session not active"
    admin.send_signals_to("http://127.0.0.1:8080")


def test_admin_events_are_in_order_and_found_again(admin: RealmAdmin) -> None:
    user = admin.user("infer")
    number = admin.user_id(user)
    admin.change(user, enabled=False)
    admin.reset_password(user, "x")
    admin.delete(user)
    events = [event for event in admin.admin_events(max=50) if f"users/{number}" in event.get("resourcePath", "")]
    assert [(event["operationType"], event["resourceType"]) for event in events[::-1]] == [
        ("CREATE", "USER"),
        ("CREATE", "CLIENT_ROLE_MAPPING"),
        ("UPDATE", "USER"),
        ("ACTION", "USER"),
        ("DELETE", "USER"),
    ]
    since = events[2]["time"]
    later = admin.admin_events(dateFrom=since, max=50)
    assert all(event["time"] >= since for event in later)
    assert {event["id"] for event in events[:3]} <= {event["id"] for event in later}
    assert admin.admin_events(first=1, max=1) == [admin.admin_events(max=2)[1]]
    assert "x" not in [event.get("representation") for event in events]


@pytest.mark.parametrize(
    ("path", "status"),
    [("/users", 200), ("/groups", 200), ("/clients", 200), ("/events", 200), ("/admin-events", 200), ("/roles", 200)],
)
def test_console_may_read(idp: RealmClient, path: str, status: int) -> None:
    with RealmAdmin(idp.base_url, client=CONSOLE) as console:
        assert console.http.get(path).status_code == status


def test_who_may_not(idp: RealmClient, admin: RealmAdmin) -> None:
    alice = admin.user_id("alice")
    with RealmAdmin(idp.base_url, client=CONSOLE) as console:
        refused = console.http.put(f"/users/{alice}", json={"enabled": False})
        assert (refused.status_code, refused.json()) == (403, {"error": "HTTP 403 Forbidden"})
    url = f"{idp.base_url}/admin/realms/tollgate/users"
    own = {"Authorization": f"Bearer {idp.login('alice')['access_token']}"}
    answers = [httpx.get(url), httpx.get(url, headers={"Authorization": "Bearer x"}), httpx.get(url, headers=own)]
    assert [answer.status_code for answer in answers] == [401, 401, 403]
    assert answers[0].json() == {"error": "HTTP 401 Unauthorized"}


def test_who_lost_the_role_may_not(idp: RealmClient, admin: RealmAdmin) -> None:
    """At once, with a token that still names it."""
    with RealmAdmin(idp.base_url, client=CONSOLE) as console:
        assert console.http.get("/events").status_code == 200
        admin.remove_client_role("service-account-tollgate-console", "view-events", "realm-management")
        try:
            assert console.http.get("/events").status_code == 403
        finally:
            admin.add_client_role("service-account-tollgate-console", "view-events", "realm-management")
