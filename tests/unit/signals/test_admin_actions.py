"""What Keycloak's admin console sends to the admin URL of a client."""

from __future__ import annotations

from typing import Any

import pytest

from ext_authz.revocation.entry import Kind, Target
from ext_authz.signals.messages import LOGOUT, PUSH_NOT_BEFORE
from tests.signals import CONSOLE, SID, event, logout_token
from tests.signals import action as an_action
from tests.tokens import ABSENT, ISSUER, RSA_NEXT, mint
from tests.unit.signals.world import NOW, action, ensure_refused


async def test_sessions_end_each_once() -> None:
    text = an_action("LOGOUT", {"adapterSessionIds": ["a"], "keycloakSessionIds": [SID, "b", SID]}, now=NOW)
    signal = await action(text)
    assert set(signal.targets) == {Target(Kind.SESSION, "ml", SID), Target(Kind.SESSION, "ml", "b")}
    assert (signal.kind, signal.at, signal.forget_at) == ("k_logout", NOW, NOW + 660)


@pytest.mark.parametrize("changes", [{}, {"adapterSessionIds": None, "keycloakSessionIds": None}, {"notBefore": 0}])
async def test_without_sessions_the_whole_client_is_logged_out(changes: dict[str, Any]) -> None:
    signal = await action(an_action("LOGOUT", changes, now=NOW))
    assert (signal.targets, signal.not_before) == ((Target(Kind.CLIENT, "ml", "web-app"),), NOW)


async def test_a_not_before_is_that_of_the_client_and_of_the_console_that_of_the_realm() -> None:
    text = an_action("PUSH_NOT_BEFORE", {"notBefore": NOW - 500}, now=NOW)
    signal = await action(text, PUSH_NOT_BEFORE)
    assert (signal.targets, signal.not_before) == ((Target(Kind.CLIENT, "ml", "web-app"),), NOW - 500)
    text = an_action("PUSH_NOT_BEFORE", {"resource": CONSOLE}, now=NOW)
    assert (await action(text, PUSH_NOT_BEFORE)).targets == (Target(Kind.ISSUER, "ml"),)


@pytest.mark.parametrize("not_before", [0, None, ABSENT])
async def test_a_not_before_that_was_cleared_lifts_nothing(not_before: object) -> None:
    text = an_action("PUSH_NOT_BEFORE", {"notBefore": not_before}, now=NOW)
    assert (await action(text, PUSH_NOT_BEFORE)).targets == ()


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"action": "PUSH_NOT_BEFORE"}, "token_type"),
        ({"action": ABSENT}, "token_type"),
        ({"typ": "Bearer"}, "token_type"),
        ({"expiration": NOW - 30}, "token_expired"),
        ({"expiration": NOW + 151}, "token_expired"),
        ({"expiration": ABSENT}, "claim_missing"),
        ({"expiration": True}, "claim_invalid"),
        ({"resource": "other"}, "audience_mismatch"),
        ({"resource": ABSENT}, "claim_missing"),
        ({"resource": ["web-app"]}, "claim_invalid"),
        ({"id": ABSENT}, "claim_missing"),
        ({"iss": "https://other.example"}, "issuer_unknown"),
        ({"notBefore": "now"}, "claim_invalid"),
        ({"notBefore": NOW + 367 * 86_400}, "claim_invalid"),
        ({"keycloakSessionIds": SID}, "claim_invalid"),
        ({"keycloakSessionIds": [SID, 1]}, "claim_invalid"),
        ({"keycloakSessionIds": ["a\0"]}, "claim_invalid"),
        ({"adapterSessionIds": ["a"]}, "claim_invalid"),
    ],
)
async def test_what_is_no_such_action(changes: dict[str, Any], code: str) -> None:
    assert await ensure_refused(action, an_action("LOGOUT", changes, now=NOW), code)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (mint(now=NOW), "token_type"),
        (mint({"typ": "ID"}, now=NOW), "token_type"),
        (logout_token(now=NOW), "token_type"),
        (event(now=NOW), "token_type"),
        (an_action("LOGOUT", now=NOW, key=RSA_NEXT), "key_unknown"),
    ],
)
async def test_tokens_and_other_signals_are_none(text: str, code: str) -> None:
    assert await ensure_refused(action, text, code)


async def test_it_may_name_its_issuer() -> None:
    assert (await action(an_action("LOGOUT", {"iss": ISSUER}, now=NOW), LOGOUT)).targets
