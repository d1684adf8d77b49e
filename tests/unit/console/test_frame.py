"""What every page has."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from starlette.requests import Request
from starlette.responses import Response

from ext_authz.console.frame import Frame, Site, distance, place, shown_time
from tests.fakes import FakeClock

HTTPS = Site("https://models.example.com/tollgate", "https://kc.example", 1)
HTTP = Site("http://127.0.0.1:8080/tollgate", "http://127.0.0.1:8081", 0)


@pytest.mark.parametrize(
    "wanted", ["/tollgate/", "/tollgate/tokens", "/tollgate/usage?days=7", "/tollgate/tokens/1-2/renew"]
)
def test_a_page_of_the_console_is_a_place_to_go_to(wanted: str) -> None:
    assert place(wanted) == wanted


@pytest.mark.parametrize(
    "wanted",
    [
        *("", "/", "//evil", "/\\evil", "https://evil", "/tollgate//evil", "/tollgate/..", "/tollgate/a/../b"),
        *("/tollgate/%2e%2e", "/tollgate\n", "/tollgate/x\n", "/tollgate/\u00e9", "/tollgate/x y", "/tollgate/x#y"),
        *("/tollgate/x?y#z", "/tollgate/x?y\r\nz", "/tollgatex", "/tollgate@evil", "/tollgate/" + 600 * "x"),
    ],
)
def test_anything_else_is_none(wanted: str) -> None:
    assert place(wanted) == "/tollgate/"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        *((30 * 86_400 - 1, "in 30 days"), (86_400, "in 1 day"), (7200, "in 2 hours"), (61, "in 1 minute")),
        *(
            (1, "in less than a minute"),
            (0, "just now"),
            (-1, "just now"),
            (-3600, "1 hour ago"),
            (-172_800, "2 days ago"),
        ),
    ],
)
def test_a_distance_in_time_is_in_words(seconds: float, words: str) -> None:
    assert distance(seconds) == words


def test_a_time_has_its_zone() -> None:
    assert shown_time(datetime(2026, 11, 29, 12, 0, tzinfo=UTC)) == "2026-11-29 12:00 UTC"


def test_an_origin_is_as_browsers_write_it() -> None:
    assert Site("https://Models.example:443/tollgate", "", 1).origin == "https://models.example"
    assert Site("http://127.0.0.1:80/tollgate", "", 1).origin == "http://127.0.0.1"
    assert HTTP.origin == "http://127.0.0.1:8080"


def test_over_https_no_subdomain_can_have_set_the_cookie() -> None:
    response = Response()
    HTTPS.set_cookie(response, "tollgate", "x")
    (cookie,) = response.headers.getlist("set-cookie")
    assert cookie == "__Host-tollgate=x; HttpOnly; Path=/; SameSite=lax; Secure"


def test_over_http_on_this_machine_the_cookie_is_one_that_browsers_take() -> None:
    response = Response()
    HTTP.set_cookie(response, "tollgate", "")
    (cookie,) = response.headers.getlist("set-cookie")
    assert cookie.startswith('tollgate=""; ')
    assert "Max-Age=0" in cookie
    assert "Secure" not in cookie


def test_whose_address_counts_is_said_by_our_own_proxies() -> None:
    for values in ([b"203.0.113.9, 198.51.100.7"], [b"203.0.113.9", b"198.51.100.7"]):
        headers = [(b"x-forwarded-for", value) for value in values]
        request = Request({"type": "http", "headers": headers, "client": ("127.0.0.1", 5)})
        assert HTTPS.address(request) == "198.51.100.7"
        assert HTTP.address(request) == "127.0.0.1"


def test_a_page_lets_nothing_in_and_is_let_in_nowhere() -> None:
    page = Frame(HTTPS, FakeClock()).error(None, 404, "<b>", "There is no <i>.")
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; ")
    assert "form-action 'self' https://kc.example;" in policy
    assert "script" not in policy
    text = bytes(page.body).decode()
    assert "&lt;b&gt;" in text
    assert "<i>" not in text
    assert "<script" not in text
    assert "style=" not in text
