"""The login and logout pages: escaped, accessible, and of no use to other sites."""

from __future__ import annotations

import re

import httpx
import pytest

from tests.e2e.realm.client import Browser, RealmClient, code_in, exchange


def test_form_is_labelled_and_needs_no_script(realm: RealmClient) -> None:
    page = Browser(realm).authorize()
    assert page.status_code == 200
    for field in ("username", "password"):
        assert f'<label for="{field}">' in page.text
        assert f'id="{field}"' in page.text
    assert 'lang="en"' in page.text
    assert "<script" not in page.text
    assert "never for production" in page.text


def test_page_may_not_be_framed_or_stored(realm: RealmClient) -> None:
    headers = Browser(realm).authorize().headers
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert "default-src 'none'" in headers["content-security-policy"]
    assert headers["cache-control"] == "no-store"


def test_cookies_are_out_of_reach_for_scripts(realm: RealmClient) -> None:
    browser = Browser(realm)
    page = browser.authorize()
    cookies = [page.headers["set-cookie"], browser.submit(page, username="bob", password="bob").headers["set-cookie"]]
    assert [("HttpOnly" in cookie, "Path=/realms/tollgate/" in cookie) for cookie in cookies] == [(True, True)] * 2
    assert "SameSite=strict" in cookies[0]
    assert "SameSite=lax" in cookies[1]


def test_wrong_password_is_shown_and_the_name_kept_escaped(realm: RealmClient) -> None:
    browser = Browser(realm)
    page = browser.submit(browser.authorize(), username='"><script>alert(1)</script>', password="x")
    assert page.status_code == 200
    assert 'role="alert"' in page.text
    assert "<script" not in page.text
    assert "&quot;&gt;&lt;script&gt;" in page.text
    assert code_in(browser.submit(page, username="alice", password="alice"))


@pytest.mark.parametrize("name", ["username", "password"])
def test_missing_field_is_no_login(realm: RealmClient, name: str) -> None:
    browser = Browser(realm)
    fields = {"username": "alice", "password": "alice"}
    del fields[name]
    assert 'role="alert"' in browser.submit(browser.authorize(), **fields).text


def test_service_account_cannot_log_in(realm: RealmClient) -> None:
    browser = Browser(realm)
    page = browser.submit(browser.authorize(), username="service-account-batch-job", password="")
    assert 'role="alert"' in page.text


def test_form_of_another_site_is_refused(realm: RealmClient) -> None:
    browser = Browser(realm)
    page = browser.authorize()
    form = {"username": "alice", "password": "alice"}
    csrf = re.findall(r'name="csrf" value="([^"]+)"', page.text)[0]
    refused = [
        browser.post(str(page.url), form),
        browser.post(str(page.url), {**form, "csrf": "guessed"}),
        browser.post(str(page.url), {**form, "csrf": csrf}, Origin="http://127.0.0.1:8080"),
        browser.post(str(page.url), {**form, "csrf": csrf}, Origin="null"),
        Browser(realm).post(str(page.url), {**form, "csrf": csrf}),
    ]
    assert [response.status_code for response in refused] == [400] * 5
    own = browser.post(str(page.url), {**form, "csrf": csrf}, Origin=realm.base_url)
    assert own.status_code == 302


def test_prompt_login_asks_again(realm: RealmClient) -> None:
    browser = Browser(realm)
    browser.log_in("alice")
    assert browser.authorize().status_code == 302
    assert 'type="password"' in browser.authorize(prompt="login").text


def test_code_of_one_client_is_nothing_to_another(realm: RealmClient) -> None:
    refused = exchange(realm, Browser(realm).log_in("alice"), client_id="short-lived")
    assert refused.status_code == 400


def test_error_page_quotes_nothing_raw(realm: RealmClient) -> None:
    page = Browser(realm).authorize(client_id="<script>alert(1)</script>", redirect_uri="<script>alert(1)</script>")
    assert page.status_code == 400
    assert "<script" not in page.text


def test_logout_without_a_hint_asks_first(realm: RealmClient) -> None:
    browser = Browser(realm)
    answer = exchange(realm, browser.log_in("alice")).json()
    question = browser.get("/logout")
    assert realm.is_active(answer["access_token"])
    assert browser.post("/logout", {"csrf": "guessed"}).status_code == 200
    assert realm.is_active(answer["access_token"]), "a foreign form logged the user out"
    browser.submit(question)
    assert not realm.is_active(answer["access_token"])
    assert 'type="password"' in browser.authorize().text


def test_logout_without_a_session_is_a_message(realm: RealmClient) -> None:
    assert "no session" in Browser(realm).get("/logout").text


@pytest.mark.parametrize("kind", ["access_token", "refresh_token"])
def test_only_an_id_token_is_a_hint(realm: RealmClient, kind: str) -> None:
    answer = realm.login("alice", scope="openid")
    refused = realm.http.get("/logout", params={"id_token_hint": answer[kind]})
    assert refused.status_code == 400
    assert realm.is_active(answer["access_token"])


def test_logout_ends_the_session_at_every_client(realm: RealmClient) -> None:
    browser = Browser(realm)
    first, second = (exchange(realm, code).json() for code in (browser.log_in("bob"), code_in(browser.authorize())))
    browser.get("/logout", id_token_hint=first["id_token"])
    assert not realm.is_active(second["access_token"])
    assert realm.refresh(second["refresh_token"]).status_code == 400


def test_front_page_and_every_response_warn(realm: RealmClient) -> None:
    front = httpx.get(realm.base_url)
    assert "never for production" in front.text
    assert f"{realm.issuer}/.well-known/openid-configuration" in front.text
    for response in (front, realm.http.get("/certs"), realm.http.get("/nowhere"), realm.userinfo(None)):
        assert "never for production" in response.headers["x-development-only"]


def test_other_host_names_are_refused(realm: RealmClient) -> None:
    assert httpx.get(realm.base_url, headers={"Host": "rebound.evil.example"}).status_code == 400
