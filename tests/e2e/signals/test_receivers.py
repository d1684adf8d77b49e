"""What is answered with 200 or 202 is in force; everything else is refused, and changes nothing."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from ext_authz.revocation.entry import Kind
from ext_authz.signals.receivers import MAX_BODY
from tests.e2e.signals.world import OTHER, SECRET, Receiving
from tests.signals import CONSOLE, SID, action, event, logout_token, session_subject
from tests.tokens import ABSENT, ALICE, EC256, RSA_NEXT, mint

FORM, TEXT, EVENT = "application/x-www-form-urlencoded", "text/plain; charset=ISO-8859-1", "application/secevent+jwt"


def ensure_refused(answer: httpx.Response, status: int = 400) -> str:
    assert answer.status_code == status, answer.text
    assert answer.headers["cache-control"] == "no-store"
    said = answer.json()
    return str(said.get("error_description") or said["description"])


async def signed_in(console: Receiving, subject: str = ALICE, sid: str = SID) -> None:
    await console.world.sql(
        "INSERT INTO console_sessions (id, issuer, subject, sid, secret, expires_at) "
        "VALUES (convert_to(%s, 'UTF8'), %s, %s, %s, '', 'infinity')",
        *(f"{subject}{sid}", "ml", subject, sid),
    )


async def test_a_logout_is_in_force_recorded_and_ends_the_session_of_the_console(console: Receiving) -> None:
    await signed_in(console)
    await signed_in(console, sid="another")
    answer = await console.log_out(logout_token())
    assert (answer.status_code, answer.content, answer.headers["cache-control"]) == (200, b"", "no-store")
    assert await console.revoked() == [f"s:ml:{SID}"]
    assert await console.audit() == [("issuer ml", "logout", [f"s:ml:{SID}"])]
    assert await console.rows("SELECT sid FROM console_sessions") == [("another",)]


async def test_a_logout_of_every_session_spares_those_that_begin_later(console: Receiving) -> None:
    await signed_in(console)
    await signed_in(console, subject="somebody-else", sid="theirs")
    token = logout_token({"sid": ABSENT})
    assert (await console.log_out(token)).status_code == 200
    assert await console.revoked() == [f"u:ml:{ALICE}"]
    assert await console.rows("SELECT sid FROM console_sessions") == [("theirs",)]
    (entry,) = await console.world.store.entries()
    assert entry.not_before is not None
    assert entry.expires_at.timestamp() - entry.not_before.timestamp() > 30 * 86_400


async def test_a_logout_token_is_good_until_it_is_in_force(console: Receiving) -> None:
    token = logout_token()
    answers = await asyncio.gather(*(console.log_out(token) for _ in range(8)))
    # Of several at once none may say "obeyed" of what another one is still about to do.
    assert {answer.status_code for answer in answers} in ({200}, {200, 400})
    assert "received before" in ensure_refused(await console.log_out(token))
    assert len(await console.audit()) == 1


async def test_a_logout_whose_process_ended_before_redis_had_it_is_obeyed_again(
    console: Receiving, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = logout_token()

    async def ended(*_: object, **__: object) -> None:
        raise SystemExit

    with monkeypatch.context() as crash:
        crash.setattr(console.world.operations, "_copied", ended)
        with pytest.raises(SystemExit):
            await console.log_out(token)
    assert await console.world.held(f"s:ml:{SID}") is None
    assert (await console.log_out(token)).status_code == 200
    assert await console.revoked() == [f"s:ml:{SID}"]
    assert len(await console.audit()) == 1


async def test_a_logout_that_cannot_be_noted_is_in_force_all_the_same(console: Receiving) -> None:
    token = logout_token()
    await console.world.sql("ALTER TABLE signals_seen RENAME COLUMN confirmed TO elsewhere")
    assert (await console.log_out(token)).status_code == 200
    await console.world.sql("ALTER TABLE signals_seen RENAME COLUMN elsewhere TO confirmed")
    assert await console.revoked() == [f"s:ml:{SID}"]
    assert (await console.log_out(token)).status_code == 200
    assert "received before" in ensure_refused(await console.log_out(token))


async def test_what_is_no_logout_changes_nothing(console: Receiving) -> None:
    for body in (
        "",
        "logout_token=",
        "logout_token",
        "token=x",
        "logout_token=nonsense",
        f"logout_token={mint()}",
        f"logout_token={logout_token()}&logout_token={logout_token()}",
        f"logout_token={event()}",
        f"logout_token={logout_token(key=RSA_NEXT)}",
        "&".join(["a=b"] * 20),
        "logout_token=\u00e9",
    ):
        assert ensure_refused(await console.post("backchannel-logout", body, FORM)), body
    assert await console.world.store.entries() == []
    assert await console.audit() == []


async def test_a_body_is_read_to_its_bound_only(console: Receiving) -> None:
    huge = f"logout_token={'x' * 1_000_000}"
    assert str(MAX_BODY) in ensure_refused(await console.post("backchannel-logout", huge, FORM), 413)
    assert ensure_refused(await console.post("events", huge, EVENT), 401)
    assert "content type" in ensure_refused(
        await console.post("backchannel-logout", f"logout_token={logout_token()}", TEXT)
    )


async def test_admin_callbacks_revoke_sessions_clients_and_the_realm(console: Receiving) -> None:
    sessions = action("LOGOUT", {"adapterSessionIds": ["a"], "keycloakSessionIds": ["one", "two"], "notBefore": 0})
    assert (await console.post("k_logout", sessions, TEXT)).status_code == 200
    assert (await console.post("k_push_not_before", action("PUSH_NOT_BEFORE"), TEXT)).status_code == 200
    await signed_in(console)
    assert (await console.post("k_logout", action("LOGOUT", {"resource": CONSOLE}), TEXT)).status_code == 200
    assert await console.revoked() == ["c:ml:web-app", "i:ml:", "s:ml:one", "s:ml:two"]
    assert await console.rows("SELECT sid FROM console_sessions") == []
    assert "received before" in ensure_refused(await console.post("k_logout", sessions, TEXT))
    kinds = [kind for _, kind, _ in await console.audit()]
    assert kinds == ["k_logout", "k_push_not_before", "k_logout"]


async def test_a_not_before_never_weakens_one_in_force(console: Receiving) -> None:
    for not_before in (2_000_000_000, 1_000_000_000, 0):
        text = action("PUSH_NOT_BEFORE", {"notBefore": not_before} if not_before < 2_000_000_000 else {})
        assert (await console.post("k_push_not_before", text, TEXT)).status_code == 200
    (entry,) = await console.world.store.entries()
    assert entry.kind is Kind.CLIENT
    assert entry.not_before is not None
    assert entry.not_before.timestamp() > 1_500_000_000


async def test_what_is_no_action_changes_nothing(console: Receiving) -> None:
    for path, text in (
        ("k_logout", action("PUSH_NOT_BEFORE")),
        ("k_push_not_before", action("LOGOUT")),
        ("k_logout", mint()),
        ("k_logout", logout_token()),
        ("k_logout", action("LOGOUT", {"resource": "their-app"})),
        ("other/k_logout", action("LOGOUT", {"resource": "their-app"})),
        ("nobody/k_logout", action("LOGOUT")),
    ):
        assert ensure_refused(await console.post(path, text, TEXT)), path
    assert await console.world.store.entries() == []


async def test_another_issuer_has_a_path_of_its_own(console: Receiving) -> None:
    text = action("LOGOUT", {"resource": "their-app"}, key=EC256)
    assert (await console.post("other/k_logout", text, TEXT)).status_code == 200
    token = logout_token({"iss": OTHER, "aud": "their-app"}, key=EC256)
    assert (await console.log_out(token)).status_code == 200
    assert ensure_refused(await console.log_out(logout_token({"iss": OTHER, "aud": CONSOLE}, key=EC256)))
    assert await console.revoked() == ["c:other:their-app", f"s:other:{SID}"]


async def test_an_event_is_in_force_and_may_come_again(console: Receiving) -> None:
    await console.stream_is_pushed()
    text = event({"sub_id": session_subject("ALL")})
    for _ in range(2):
        answer = await console.push(text)
        assert (answer.status_code, answer.content) == (202, b"")
    assert await console.revoked() == [f"u:ml:{ALICE}"]
    assert len(await console.audit()) == 1


async def test_without_the_secret_of_the_stream_nobody_is_heard(console: Receiving) -> None:
    assert ensure_refused(await console.push(event()), 401)
    await console.stream_is_pushed()
    for authorization in ("", "Bearer other", "Bearer of-the-stream2", SECRET.lower()):
        answer = await console.push(event(), authorization=authorization)
        assert ensure_refused(answer, 401)
        assert answer.json()["err"] == "authentication_failed"
    assert await console.world.store.entries() == []


async def test_what_is_no_event_is_refused(console: Receiving) -> None:
    await console.stream_is_pushed()
    for text, err in (
        (event({"aud": "tollgate-console/old"}), "invalid_audience"),
        (event({"iss": "https://nobody.example"}), "invalid_issuer"),
        (event({"iss": OTHER}, key=EC256), "invalid_issuer"),
        (event({"iss": OTHER, "sub_id": session_subject()}, key=EC256), "invalid_issuer"),
        (event(key=RSA_NEXT), "invalid_key"),
        (event({"exp": 1}), "invalid_request"),
        (event(typ="JWT"), "invalid_request"),
    ):
        answer = await console.push(text)
        assert answer.json()["err"] == err
        assert ensure_refused(answer)
    assert await console.world.store.entries() == []
