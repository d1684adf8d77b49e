"""Security events: whom they revoke, and what is none."""

from __future__ import annotations

from typing import Any

import pytest

from ext_authz.revocation.entry import Kind, Target
from ext_authz.signals import messages
from tests.signals import AUDIENCE, SID, STREAM, USER, action, logout_token, session_subject
from tests.signals import event as an_event
from tests.tokens import ABSENT, ALICE, ISSUER, RSA_NEXT, mint
from tests.unit.signals.world import NOW, ensure_refused, event

THE_USER = (Target(Kind.USER, "ml", ALICE),)
_CHANGE = messages.CREDENTIAL_CHANGE


@pytest.mark.parametrize("typ", ["secevent+jwt", "application/secevent+jwt"])
async def test_a_session_is_revoked(typ: str) -> None:
    signal = await event(an_event(now=NOW, typ=typ))
    assert (signal.kind, signal.targets) == ("session_revoked", (Target(Kind.SESSION, "ml", SID),))
    assert (signal.at, signal.not_before) == (NOW, NOW)


@pytest.mark.parametrize("subject", [session_subject("ALL"), {"format": "complex", "user": USER}, USER])
async def test_every_session_is_revoked(subject: dict[str, Any]) -> None:
    assert (await event(an_event({"sub_id": subject}, now=NOW))).targets == THE_USER


async def test_several_events_are_obeyed_all() -> None:
    """They should be names of one event. Nothing is left out because of the order in which they are looked for."""
    both: dict[str, Any] = {messages.SESSION_REVOKED: {}, messages.ACCOUNT_DISABLED: {}, messages.ACCOUNT_PURGED: {}}
    signal = await event(an_event({"events": both}, now=NOW))
    assert (signal.kind, signal.targets) == ("session_revoked", (Target(Kind.SESSION, "ml", SID), *THE_USER))


async def test_a_session_needs_no_user() -> None:
    subject = {"format": "complex", "session": {"format": "opaque", "id": SID}}
    assert (await event(an_event({"sub_id": subject}, now=NOW))).targets == (Target(Kind.SESSION, "ml", SID),)


@pytest.mark.parametrize(
    ("change", "credential", "revokes"),
    [
        ("update", "password", True),
        ("revoke", "password", True),
        ("delete", "password", True),
        ("create", "password", False),
        ("update", "app", False),
        ("create", "fido2-roaming", False),
        ("delete", "fido2-roaming", True),
        ("revoke", "app", True),
        ("something-new", "password", False),
    ],
)
async def test_a_changed_credential_ends_what_it_may_have_begun(change: str, credential: str, revokes: bool) -> None:  # noqa: FBT001
    content = {"change_type": change, "credential_type": credential}
    signal = await event(an_event(uri=_CHANGE, content=content, now=NOW))
    assert (signal.kind, signal.targets) == ("credential_change", THE_USER if revokes else ())


@pytest.mark.parametrize(
    ("uri", "kind"),
    [
        (messages.ACCOUNT_DISABLED, "account_disabled"),
        (messages.ACCOUNT_PURGED, "account_purged"),
        (messages.CREDENTIAL_COMPROMISE, "credential_compromise"),
    ],
)
async def test_an_account_that_ends_is_revoked(uri: str, kind: str) -> None:
    signal = await event(an_event(uri=uri, now=NOW))
    assert (signal.kind, signal.targets) == (kind, THE_USER)


@pytest.mark.parametrize(
    ("uri", "kind"),
    [
        (messages.VERIFICATION, "verification"),
        (messages.STREAM_UPDATED, "stream_updated"),
        ("https://schemas.openid.net/secevent/risc/event-type/account-enabled", "unknown"),
        ("https://example.com/of-somebody", "unknown"),
    ],
)
async def test_what_nothing_follows_from(uri: str, kind: str) -> None:
    signal = await event(an_event({"sub_id": {"format": "opaque", "id": STREAM}}, uri, now=NOW))
    assert (signal.kind, signal.targets) == (kind, ())


async def test_the_event_that_is_known_counts() -> None:
    events: dict[str, Any] = {"https://example.com/alias": {}, messages.ACCOUNT_DISABLED: {}}
    assert (await event(an_event({"events": events, "sub_id": USER}, now=NOW))).kind == "account_disabled"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"sub": ALICE}, "claim_invalid"),
        ({"exp": NOW + 60}, "claim_invalid"),
        ({"events": ABSENT}, "claim_missing"),
        ({"events": {}}, "claim_invalid"),
        ({"events": [messages.SESSION_REVOKED]}, "claim_invalid"),
        ({"events": {messages.SESSION_REVOKED: True}}, "claim_invalid"),
        ({"aud": ABSENT}, "claim_missing"),
        ({"aud": "tollgate-console"}, "audience_mismatch"),
        ({"aud": f"{AUDIENCE}x"}, "audience_mismatch"),
        ({"iat": NOW + 31}, "token_not_yet_valid"),
        ({"iat": NOW - 31 * 86_400}, "token_expired"),
        ({"iat": ABSENT}, "claim_missing"),
        ({"jti": ABSENT}, "claim_missing"),
        ({"jti": ""}, "claim_invalid"),
        ({"iss": "https://other.example"}, "issuer_unknown"),
        ({"sub_id": ABSENT}, "claim_missing"),
        ({"sub_id": ALICE}, "claim_invalid"),
        ({"sub_id": {"format": "email", "email": "a@b.example"}}, "claim_invalid"),
        ({"sub_id": {"format": "opaque", "id": ALICE}}, "claim_invalid"),
        ({"sub_id": {**USER, "iss": "https://other.example"}}, "issuer_unknown"),
        ({"sub_id": {**USER, "sub": ""}}, "claim_invalid"),
        ({"sub_id": {"format": "iss_sub", "iss": ISSUER}}, "claim_missing"),
        ({"sub_id": {"format": "complex"}}, "claim_missing"),
        ({"sub_id": {"format": "complex", "user": []}}, "claim_invalid"),
        ({"sub_id": {"format": "complex", "user": USER, "session": {"format": "jwt_id", "id": "a"}}}, "claim_invalid"),
        ({"sub_id": session_subject("")}, "claim_invalid"),
        ({"sub_id": session_subject("ALL", {**USER, "iss": "https://other.example"})}, "issuer_unknown"),
    ],
)
async def test_what_is_no_event_for_us(changes: dict[str, Any], code: str) -> None:
    assert await ensure_refused(event, an_event(changes, now=NOW), code)


async def test_a_change_without_a_type_is_none() -> None:
    assert await ensure_refused(event, an_event(uri=_CHANGE, now=NOW), "claim_missing")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (mint(now=NOW), "token_type"),
        (logout_token(now=NOW), "token_type"),
        (action("LOGOUT", now=NOW), "claim_missing"),
        (an_event(now=NOW, typ="JWT"), "token_type"),
        (an_event(now=NOW, headers={"alg": "none"}), "algorithm_refused"),
        (an_event(now=NOW, key=RSA_NEXT), "key_unknown"),
    ],
)
async def test_tokens_and_other_signals_are_none(text: str, code: str) -> None:
    assert await ensure_refused(event, text, code)
