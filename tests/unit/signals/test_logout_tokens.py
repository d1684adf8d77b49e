"""Logout tokens: every rule of OpenID Connect Back-Channel Logout 1.0 section 2.6, and tokens of other kinds."""

from __future__ import annotations

from typing import Any

import pytest

from ext_authz.errors import Denied
from ext_authz.identity.claim_values import MAX_TIME
from ext_authz.identity.tokens import read
from ext_authz.revocation.entry import Kind, Target
from ext_authz.signals import messages
from ext_authz.signals.messages import LOGOUT_EVENT
from tests.signals import SID, action, event, logout_token
from tests.tokens import ABSENT, ALICE, EC256, RSA, RSA_NEXT, mint
from tests.unit.identity.world import an_issuer, identify
from tests.unit.signals.world import NOW, ensure_refused, logout


@pytest.mark.parametrize("typ", ["logout+jwt", "application/logout+jwt", "LOGOUT+JWT", "JWT"])
async def test_a_session_ends(typ: str) -> None:
    signal = await logout(logout_token(now=NOW, typ=typ))
    assert signal.targets == (Target(Kind.SESSION, "ml", SID),)
    assert (signal.kind, signal.issuer, signal.subject, signal.at) == ("logout", "ml", ALICE, NOW)
    assert signal.forget_at == NOW + 750


async def test_without_a_session_every_session_of_the_user_ends() -> None:
    signal = await logout(logout_token({"sid": ABSENT}, now=NOW))
    assert (signal.targets, signal.not_before) == ((Target(Kind.USER, "ml", ALICE),), NOW)


@pytest.mark.parametrize(
    "changes",
    [
        {"sub": ABSENT},
        {"typ": ABSENT},
        {"aud": ["other", "web-app"]},
        {"nonce": None},
        {"events": {LOGOUT_EVENT: {"revoke_offline_access": True}, "more": 1}},
        {"iat": NOW - 149},
        {"iat": NOW + 30},
        {"exp": NOW - 29},
    ],
)
async def test_what_else_is_a_logout_token(changes: dict[str, Any]) -> None:
    assert (await logout(logout_token(changes, now=NOW))).targets


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"nonce": "n"}, "claim_invalid"),
        ({"nonce": ""}, "claim_invalid"),
        ({"events": ABSENT}, "claim_missing"),
        ({"events": [LOGOUT_EVENT]}, "claim_invalid"),
        ({"events": LOGOUT_EVENT}, "claim_invalid"),
        ({"events": {}}, "claim_invalid"),
        ({"events": {LOGOUT_EVENT: True}}, "claim_invalid"),
        ({"events": {LOGOUT_EVENT: []}}, "claim_invalid"),
        ({"events": {LOGOUT_EVENT + "/": {}}}, "claim_invalid"),
        ({"iat": NOW - 151}, "token_expired"),
        ({"iat": NOW + 31}, "token_not_yet_valid"),
        ({"iat": ABSENT}, "claim_missing"),
        ({"iat": str(NOW)}, "claim_invalid"),
        ({"iat": True}, "claim_invalid"),
        ({"exp": ABSENT}, "claim_missing"),
        ({"exp": NOW - 30}, "token_expired"),
        ({"exp": -1}, "claim_invalid"),
        ({"aud": ABSENT}, "claim_missing"),
        ({"aud": "another-app"}, "audience_mismatch"),
        ({"aud": []}, "claim_invalid"),
        ({"aud": ["web-app", 1]}, "claim_invalid"),
        ({"aud": "tollgate-console "}, "audience_mismatch"),
        ({"sid": ABSENT, "sub": ABSENT}, "claim_missing"),
        ({"sid": ""}, "claim_invalid"),
        ({"sid": "a\nb"}, "claim_invalid"),
        ({"sid": "x" * 256}, "claim_invalid"),
        ({"sub": {"a": 1}}, "claim_invalid"),
        ({"jti": ABSENT}, "claim_missing"),
        ({"jti": 7}, "claim_invalid"),
        ({"iss": "https://other.example"}, "issuer_unknown"),
        ({"typ": "Bearer"}, "token_type"),
        ({"typ": "ID"}, "token_type"),
    ],
)
async def test_what_breaks_a_rule(changes: dict[str, Any], code: str) -> None:
    assert await ensure_refused(logout, logout_token(changes, now=NOW), code)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (mint(now=NOW), "token_type"),
        (mint({"typ": "ID"}, now=NOW), "token_type"),
        (mint({"typ": "Refresh"}, now=NOW), "token_type"),
        (mint(now=NOW, headers={"typ": "at+jwt"}), "token_type"),
        (event(now=NOW), "token_type"),
        (action("LOGOUT", now=NOW), "claim_missing"),
        (logout_token({"typ": ABSENT}, now=NOW, typ="JWT"), "token_type"),
        (logout_token(now=NOW, headers={"alg": "none"}), "algorithm_refused"),
        (logout_token(now=NOW, headers={"alg": "HS256"}), "algorithm_refused"),
        (logout_token(now=NOW, key=EC256), "algorithm_refused"),
        (logout_token(now=NOW, key=RSA_NEXT), "key_unknown"),
        (logout_token(now=NOW, key=RSA_NEXT, headers={"kid": RSA.key_id}), "signature_invalid"),
        (logout_token(now=NOW, headers={"jwk": RSA_NEXT.jwk()}), "header_refused"),
        (logout_token(now=NOW, headers={"x5u": "https://evil.example"}), "header_refused"),
    ],
)
async def test_what_is_signed_otherwise_or_for_something_else(text: str, code: str) -> None:
    assert await ensure_refused(logout, text, code)


@pytest.mark.parametrize("text", [logout_token(now=NOW), logout_token(now=NOW, typ="JWT"), event(now=NOW)])
def test_no_signal_is_an_access_token(text: str) -> None:
    with pytest.raises(Denied) as refused:
        identify(text)
    assert refused.value.code in {"token_type", "claim_missing"}
    assert read(text).issuer


async def test_its_id_is_remembered_for_as_long_as_it_is_accepted_and_no_longer_than_that() -> None:
    """By the clock of Postgres, which may be ahead; whatever `exp` says, a token is accepted for two minutes."""
    for expires_at in (NOW + 1, NOW + 86_400, MAX_TIME):
        signal = await logout(logout_token({"exp": expires_at}, now=NOW))
        last = NOW + messages.FRESH + an_issuer().leeway
        assert last + 300 <= signal.forget_at <= last + 900
