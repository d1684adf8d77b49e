"""What time does to tokens, sessions and codes."""

from __future__ import annotations

from tests.e2e.realm.client import Browser, RealmClient, exchange
from tests.fakes import FakeClock


def test_access_token_expires_after_its_lifespan(realm: RealmClient, clock: FakeClock) -> None:
    token = realm.login("alice")["access_token"]
    clock.advance(299)
    assert realm.is_active(token)
    clock.advance(1)
    assert not realm.is_active(token)


def test_session_ends_when_idle(realm: RealmClient, clock: FakeClock) -> None:
    answer = realm.login("alice")
    clock.advance(1800)
    assert realm.refresh(answer["refresh_token"]).json()["error_description"] == "Session not active"


def test_refresh_keeps_a_session_alive_up_to_its_longest_life(realm: RealmClient, clock: FakeClock) -> None:
    answer = realm.login("alice")
    for _ in range(20):
        clock.advance(1790)
        answer = realm.refresh(answer["refresh_token"]).json()
    assert answer["refresh_expires_in"] == answer["expires_in"] == 36_000 - 20 * 1790
    clock.advance(200)
    assert realm.refresh(answer["refresh_token"]).status_code == 400


def test_code_expires_after_a_minute(realm: RealmClient, clock: FakeClock) -> None:
    code = Browser(realm).log_in("alice")
    clock.advance(60)
    assert exchange(realm, code).json()["error"] == "invalid_grant"


def test_browser_must_log_in_again_after_the_session(realm: RealmClient, clock: FakeClock) -> None:
    browser = Browser(realm)
    browser.log_in("alice")
    clock.advance(1800)
    assert 'type="password"' in browser.authorize().text


def test_narrower_scope_may_be_requested_and_no_wider(realm: RealmClient) -> None:
    answer = realm.login("alice", scope="openid")
    assert realm.refresh(answer["refresh_token"], scope="openid phone").json()["error"] == "invalid_scope"
    assert realm.refresh(answer["refresh_token"], scope="profile").json()["scope"] == "profile email"
