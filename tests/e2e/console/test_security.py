"""What an attacker, another user and a curious browser get: nothing.

Every test of routes goes by the list of routes, so that a new one cannot be forgotten.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from typing import LiteralString
from urllib.parse import quote_from_bytes, urlencode

import httpx
import psycopg
import pytest
from markupsafe import escape
from starlette.routing import Route

from tests.e2e.console.world import Console, Person

Visit = Callable[..., Person]
OPEN = {"", "/", "/login", "/callback", "/signed-out", "/static/{name}"}
"""Routes that need no session."""
OF_EVERYBODY = {"collection": "dataset"}
"""By parameter: what nobody has for themselves."""


def _methods(route: Route) -> set[str]:
    return (route.methods or set()) - {"HEAD"}


def _filled(route: Route, things: dict[str, str]) -> str:
    """Its path about these things; a parameter that is not among them fails the test: say whose it is."""
    path = route.path.removeprefix("/tollgate")
    if "static" in path:
        return path.format(name="console.css")
    return re.sub(r"\{(\w+)(:\w+)?\}", lambda found: (OF_EVERYBODY | things)[found[1]], path)


def _state(console: Console) -> list[object]:
    """All that people can change, but not what the poller learns of owners meanwhile."""
    owners: LiteralString = '(SELECT issuer, subject, kind, "group", roles, groups, scopes FROM owners) AS owner'
    tables: tuple[LiteralString, ...] = (
        *("grants", "tokens", owners, "revocations", "audit_log", "catalogue_state", "catalogue_entries"),
        *("catalogue_versions", "catalogue_revisions", "catalogue_stars"),
    )
    with psycopg.connect(console.database_url) as connection:
        return [connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall() for table in tables]


def test_nobody_sees_or_changes_what_is_another_persons(
    console: Console, visit: Visit, routes: list[Route], things: dict[str, str]
) -> None:
    """Frank is in no group of erin's; carol administers, which counts on the pages of administrators only."""
    for name in ("frank", "carol"):
        person, before, seen = visit(name), _state(console), 0
        csrf = person.csrf()
        for route in routes:
            path, about_erin = _filled(route, things), "{" in route.path and "static" not in route.path
            if route.path.endswith("/try"):
                continue  # of everybody: what each may see is in test_playground.py
            for method in _methods(route):
                of_administrators = path.startswith("/admin")
                if path in ("/logout", "/callback", "/login") or (of_administrators and name == "carol"):
                    continue
                if method == "POST" and not about_erin and not of_administrators:
                    continue
                answer = person.get(path) if method == "GET" else person.post(path, csrf, **_ANYTHING)
                if of_administrators:
                    assert (answer.status_code, "for administrators" in answer.text) == (403, True), path
                    continue
                assert answer.status_code == 404 or not about_erin, f"{method} {path}"
                assert not [thing for thing in things.values() if thing in answer.text], f"{method} {path}"
                seen += about_erin
        assert seen >= 8
        assert _state(console) == before


_ANYTHING = {
    "kind": "user",
    "issuer": "demo",
    "value": "somebody",
    "days": "7",
    "grace": "24",
    "version": "1",
    "reason": "mine now",
    "name": "x",
}


def test_without_a_session_every_page_leads_to_the_sign_in_and_no_action_is_done(
    console: Console, visit: Visit, routes: list[Route], things: dict[str, str]
) -> None:
    person, before = visit(), _state(console)
    for route in routes:
        if route.path.removeprefix("/tollgate") in OPEN:
            continue
        path = _filled(route, things)
        for method in _methods(route):
            answer = person.get(path) if method == "GET" else person.post(path, "x", **_ANYTHING)
            assert answer.status_code == (303 if method == "GET" else 403), path
            if method == "GET":
                assert answer.headers["location"].startswith("/tollgate/login?next="), path
    assert _state(console) == before


def test_a_get_changes_nothing(console: Console, visit: Visit, routes: list[Route], things: dict[str, str]) -> None:
    erin, carol = visit("erin"), visit("carol")
    before = _state(console)
    for route in routes:
        if "GET" in _methods(route) and "static" not in route.path and not route.path.endswith(("callback", "login")):
            path = _filled(route, things)
            answer = (carol if path.startswith("/admin") else erin).get(path)
            assert answer.status_code in (200, 303), route.path
    assert _state(console) == before


FOREIGN: dict[str, dict[str, str]] = {
    "another origin": {"origin": "https://evil.example", "sec-fetch-site": "cross-site"},
    "another origin, an old browser": {"origin": "https://evil.example", "sec-fetch-site": ""},
    "another port of this host": {"origin": "http://127.0.0.1:1", "sec-fetch-site": "same-site"},
    "no origin": {"origin": "null", "sec-fetch-site": "cross-site"},
    "said by nobody": {"sec-fetch-site": ""},
}


@pytest.mark.parametrize("how", FOREIGN)
def test_no_form_of_another_site_counts(
    console: Console, visit: Visit, routes: list[Route], things: dict[str, str], how: str
) -> None:
    """Though it has the cookie, and even the token of the form."""
    erin = visit("erin")
    before, csrf = _state(console), erin.csrf()
    del erin.http.headers["sec-fetch-site"]
    headers = {name: value for name, value in FOREIGN[how].items() if value}
    for route in routes:
        if "POST" in _methods(route):
            path = f"/tollgate{_filled(route, things)}"
            answer = erin.http.post(path, data={**_ANYTHING, "csrf": csrf}, headers=headers)
            assert answer.status_code == 403, path
    assert _state(console) == before


def test_no_form_counts_without_the_token_of_its_session(
    console: Console, visit: Visit, routes: list[Route], things: dict[str, str]
) -> None:
    erin, frank = visit("erin"), visit("frank")
    before = _state(console)
    for wrong in ("", "x", frank.csrf(), erin.csrf()[:-1], "\u00e9"):
        for route in routes:
            if "POST" in _methods(route):
                assert erin.post(_filled(route, things), wrong, **_ANYTHING).status_code == 403, route.path
    assert _state(console) == before


def test_a_form_is_bounded_and_a_form(visit: Visit) -> None:
    erin = visit("erin")
    where, csrf = "/tollgate/tokens/new", erin.csrf()
    assert erin.http.post(where, json={"csrf": csrf}).status_code == 415
    with erin.http.stream("POST", where, data={"csrf": csrf, "name": "x" * 70_000}) as refused:
        assert refused.status_code == 413  # then the connection may be reset: the rest of the form is not read
    assert erin.http.post(where, data={"csrf": csrf, **{f"f{at}": "" for at in range(1500)}}).status_code == 400
    form = {"content-type": "application/x-www-form-urlencoded"}
    assert erin.http.post(where, content=b"csrf=\xff", headers=form).status_code == 400


def test_every_page_has_the_headers_that_protect_it(
    console: Console, visit: Visit, routes: list[Route], things: dict[str, str]
) -> None:
    erin = visit("erin")
    provider = console.realm.issuer.partition("/realms")[0]
    for route in routes:
        if "GET" not in _methods(route) or "static" in route.path:
            continue
        headers = erin.get(_filled(route, things)).headers
        policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
        assert policy.pop("script-src", "'self'") == "'self'"
        assert policy == {
            "default-src": "'none'",
            "style-src": "'self'",
            "img-src": "'self'",
            "form-action": f"'self' {provider}",
            "base-uri": "'none'",
            "frame-ancestors": "'none'",
        }
        assert headers["cache-control"] == "no-store", route.path
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "same-origin"
        assert headers["cross-origin-opener-policy"] == headers["cross-origin-resource-policy"] == "same-origin"


def test_scripts_run_on_two_pages_alone(visit: Visit, routes: list[Route], things: dict[str, str]) -> None:
    erin, pages = visit("erin"), [route for route in routes if "GET" in _methods(route)]
    policies = {route.path: erin.get(_filled(route, things)).headers["content-security-policy"] for route in pages}
    allowed = {path for path, policy in policies.items() if "script-src" in policy}
    assert allowed == {"/tollgate/tokens/{grant:uuid}/token", "/tollgate/models/{model}/try"}
    assert "script-src" not in erin.get("/models/sentiment/try").headers["content-security-policy"]


def test_errors_are_pages_too(visit: Visit) -> None:
    for path in ("/nothing", "/tokens/not-a-uuid", "/static/../pages.py", "/static/nothing"):
        answer = visit().get(path)
        assert answer.status_code == 404
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "There is no such page" in answer.text


def test_no_path_leads_to_another_host(visit: Visit) -> None:
    for path in ("/tokens/", "/usage/", "/healthz/", "//evil.example/tollgate/tokens"):
        answer = visit().http.get(f"/tollgate{path}", headers={"host": "evil.example"})
        assert (answer.status_code, "location" in answer.headers) == (404, False), path
    far = visit().get("/tokens?x=" + "y" * 5000)
    assert far.headers["location"] == "/tollgate/login?next=%2Ftollgate%2F"


def test_a_method_that_a_page_has_not_is_answered_with_those_that_it_has(visit: Visit) -> None:
    for path, methods in (("/tokens", "GET, HEAD"), ("/tokens/new", "GET, HEAD, POST"), ("/admin/lift", "POST")):
        answer = visit().http.delete(f"/tollgate{path}")
        assert (answer.status_code, answer.headers["allow"]) == (405, methods)


def test_the_cookie_is_for_this_host_and_no_script(visit: Visit) -> None:
    answer = visit().sign_in("erin")
    cookies = {cookie.split("=")[0]: cookie for cookie in answer.headers.get_list("set-cookie")}
    session = cookies["tollgate"].lower()
    assert "httponly" in session
    assert "samesite=lax" in session
    assert "path=/" in session.split("; ")
    assert "domain" not in session
    assert "expires" not in session
    assert "max-age=0" in cookies["tollgate-sign-in"].lower()


def test_a_session_id_from_before_a_sign_in_is_worth_nothing_after_it(visit: Visit) -> None:
    victim = visit()
    victim.http.cookies.set("tollgate", "a" * 43, domain="127.0.0.1")
    victim.sign_in("erin")
    first = victim.cookie
    assert first not in ("", "a" * 43)
    victim.sign_in("erin")
    assert victim.cookie not in ("", first)
    thief = visit()
    thief.http.cookies.set("tollgate", first)
    assert thief.get("/tokens").status_code == 303, "the session of before the second sign-in is alive"


def test_nobody_can_finish_a_sign_in_that_another_browser_began(visit: Visit) -> None:
    attacker, victim = visit(), visit()
    location = attacker.come_back("frank")
    assert victim.http.get(location).status_code == 400
    victim.get("/login")
    assert victim.http.get(location).status_code == 400
    assert victim.cookie == ""
    assert attacker.http.get(location).status_code == 303
    again = attacker.http.get(location)
    assert (again.status_code, "cannot be finished" in again.text) == (400, True)


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"state": "x"}, 400),
        ({"state": ""}, 400),
        ({"code": "x"}, 403),
        ({"iss": "https://evil.example"}, 403),
        ({"code": "", "error": "access_denied"}, 403),
        ({"error": "<script>alert(1)</script>"}, 403),
    ],
)
def test_an_answer_that_was_changed_signs_nobody_in(visit: Visit, change: dict[str, str], status: int) -> None:
    person = visit()
    url = httpx.URL(person.come_back("erin")).copy_merge_params(change)
    answer = person.http.get(url)
    assert answer.status_code == status
    assert person.cookie == ""
    assert "<script" not in answer.text
    assert "urn:" not in answer.text


ELSEWHERE = [
    *("https://evil.example/", "//evil.example/", "/\\evil.example", "\\\\evil.example", "/tollgate//evil.example"),
    *(
        "/tollgate/../../evil",
        "/tollgate/%2e%2e/x",
        "javascript:alert(1)",
        "/v2/models",
        "/tollgatex",
        "tollgate/tokens",
    ),
    *("/tollgate/tokens\r\nset-cookie: a=b", "/tollgate/tokens\n", "/tollgate/tokens#x", "/tollgate/" + "a" * 600),
]


@pytest.mark.parametrize("place", ELSEWHERE)
def test_after_the_sign_in_there_is_no_way_elsewhere(visit: Visit, place: str) -> None:
    answer = visit().sign_in("erin", place)
    assert answer.headers["location"] == "/tollgate/"
    assert "a" not in answer.cookies


def test_after_the_sign_in_the_person_is_where_they_wanted_to_be(visit: Visit) -> None:
    wanted = visit().get("/usage?days=7").headers["location"]
    assert wanted == "/tollgate/login?next=%2Ftollgate%2Fusage%3Fdays%3D7"
    assert visit().sign_in("erin", "/tollgate/usage?days=7").headers["location"] == "/tollgate/usage?days=7"


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "{{ 31337 * 31337 }}"])
def test_hostile_names_are_text(visit: Visit, name: str) -> None:
    erin, shown = visit("erin"), str(escape(name))
    grant = erin.make(name)
    for path in ("/tokens", "/tokens/revoke-all", *(f"/tokens/{grant}{each}" for each in ("", "/renew", "/revoke"))):
        page = erin.get(path).text
        assert shown in page
        assert not [bad for bad in ("<script>alert", "<img src=x", "982007569") if bad in page]
    again = erin.post("/tokens/new", name=name, days="7")
    assert again.status_code == 409
    assert f'value="{shown}"' in again.text
    erin.post(f"/tokens/{grant}/revoke")


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "{{ 31337 * 31337 }}"])
def test_what_people_write_is_text_on_the_pages_of_administrators(visit: Visit, text: str) -> None:
    erin, carol, shown = visit("erin"), visit("carol"), str(escape(text))
    grant = erin.make(text)
    target = {"kind": "client", "issuer": "demo", "value": text}
    assert carol.post("/admin/revoke", None, **target, reason=text, days="1").status_code == 303
    query = urlencode({**target, "text": text, "user": text, "object": text, "actor": text})
    pages = [
        carol.get(path).text
        for path in (
            *("/admin/revocations", "/admin/revocations/history", "/admin/audit", f"/admin/tokens/{grant}"),
            *(f"/admin/{path}?{query}" for path in ("", "tokens", "revoke", "audit")),
        )
    ]
    pages.append(carol.post(f"/admin/tokens/{grant}/revoke", None, reason=text).text)
    pages += [carol.get(path).text for path in ("/admin/audit", f"/admin/tokens/{grant}")]
    carol.post("/admin/lift", None, **target, reason=text)
    assert all(shown in page for page in pages[:8])
    assert not [bad for page in pages for bad in ("<script>alert", "<img src=x", "982007569") if bad in page]


STRANGE = [b"\0", b"a\0b", "\ud800".encode("utf-8", "surrogatepass"), b"\xff", b"x" * 5000]
ASKED = {
    "": ["text"],
    "tokens": ["text", "state", "issuer", "subject", "after"],
    "revocations": ["kind", "user", "after"],
    "revocations/history": ["value"],
    "revoke": ["kind=user&issuer=demo&value", "kind=user&issuer", "kind"],
    "audit": ["object", "actor", "after"],
}
TARGET = "kind=user&issuer=demo&days=1&"


@pytest.mark.parametrize("strange", STRANGE)
def test_nothing_that_an_administrator_asks_for_breaks_a_page(visit: Visit, strange: bytes) -> None:
    carol = visit("carol")
    for path, names in ASKED.items():
        for name in names:
            answer = carol.get(f"/admin/{path}?{name}={quote_from_bytes(strange)}")
            assert answer.status_code in (200, 400), f"{path} {name}: {answer.status_code}"


@pytest.mark.parametrize("strange", [*STRANGE[:2], STRANGE[-1]])
def test_nothing_that_an_administrator_sends_breaks_a_form(console: Console, visit: Visit, strange: bytes) -> None:
    carol, before = visit("carol"), _state(console)
    csrf, headers = carol.csrf(), {"content-type": "application/x-www-form-urlencoded"}
    for path in ("revoke/find", "revoke", "lift"):
        for fields in (f"{TARGET}value=", f"{TARGET}value=x&reason="):
            if path == "revoke/find" and "reason" in fields:
                continue
            content = f"csrf={csrf}&{fields}{quote_from_bytes(strange)}"
            answer = carol.http.post(f"/tollgate/admin/{path}", content=content, headers=headers)
            assert answer.status_code == 400, f"{path} {fields}: {answer.status_code}"
    assert _state(console) == before


def test_sent_twice_a_form_makes_one_token(console: Console, visit: Visit) -> None:
    erin = visit("erin")
    key = uuid.uuid4().hex
    first, second = (erin.post("/tokens/new", name="twice", days="7", key=key) for _ in range(2))
    assert first.headers["location"] == second.headers["location"]
    grant = first.headers["location"].split("/")[3]
    with psycopg.connect(console.database_url) as connection:
        connection.execute(
            "UPDATE tokens SET issued_at = issued_at - interval '2 minutes' WHERE grant_id = %s", (grant,)
        )
    late = erin.post("/tokens/new", name="twice", days="7", key=key)
    assert late.headers["location"] == f"/tollgate/tokens/{grant}", "going back and sending it again shows the token"
    assert erin.post(f"/tokens/{grant}/revoke", version="1").status_code == 303


def test_who_saw_an_older_state_changes_nothing(visit: Visit) -> None:
    erin = visit("erin")
    grant = erin.make("changed-meanwhile")
    assert erin.post(f"/tokens/{grant}/renew", days="7", grace="24", version="1").status_code == 303
    assert erin.post(f"/tokens/{grant}/renew", days="7", grace="24", version="1").status_code == 409
    assert erin.post(f"/tokens/{grant}/revoke", version="1").status_code == 409
    assert erin.post(f"/tokens/{grant}/revoke", version="2").status_code == 303
