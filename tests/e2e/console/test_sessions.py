"""Who is signed in, until when, and what ends it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import httpx
import psycopg
import pytest
from pydantic import SecretStr

from ext_authz.revocation.entry import Entry, Kind
from ext_authz.revocation.store import RevocationStore
from tests.e2e.console.world import Console, Person

Visit = Callable[..., Person]


def execute(console: Console, statement: str, *values: object) -> list[tuple[object, ...]]:
    with psycopg.connect(console.database_url, autocommit=True) as connection:
        cursor = connection.execute(statement, values)
        return cursor.fetchall() if cursor.description else []


def is_in(person: Person) -> bool:
    answer = person.get("/tokens")
    assert answer.status_code in (200, 303), answer.text
    return answer.status_code == 200


def test_a_session_is_in_postgres_by_its_hash_and_encrypted(console: Console, visit: Visit) -> None:
    person = visit("erin")
    rows = execute(console, "SELECT * FROM console_sessions")
    text = repr(rows).encode()
    assert rows
    assert person.cookie.encode() not in text
    assert b"eyJhbGci" not in text, "a token of the identity provider is readable"


@pytest.mark.parametrize("column", ["seen_at = now() - interval '31 minutes'", "expires_at = now()"])
def test_it_ends_after_half_an_hour_without_a_request_and_after_ten_hours(
    console: Console, visit: Visit, column: str
) -> None:
    person = visit("erin")
    assert is_in(person)
    execute(console, f"UPDATE console_sessions SET {column}")
    assert not is_in(person)


def test_a_request_keeps_it_alive(console: Console, visit: Visit) -> None:
    person = visit("erin")
    execute(console, "UPDATE console_sessions SET seen_at = now() - interval '29 minutes'")
    assert is_in(person)
    latest = "SELECT seen_at > now() - interval '1 minute' FROM console_sessions ORDER BY created_at DESC LIMIT 1"
    assert execute(console, latest) == [(True,)]


def test_it_lives_ten_hours_at_most(console: Console, visit: Visit) -> None:
    visit("erin")
    ((longest,),) = execute(console, "SELECT max(expires_at - created_at) FROM console_sessions")
    assert longest == timedelta(hours=10)


def test_what_was_left_for_a_page_under_a_key_that_is_gone_breaks_no_page(console: Console, visit: Visit) -> None:
    person = visit("erin")
    execute(console, "UPDATE console_sessions SET flash = 'of another key'::bytea")
    assert is_in(person)


@pytest.mark.parametrize("kind", [Kind.USER, Kind.SESSION, Kind.CLIENT])
def test_a_revocation_ends_it_at_the_next_request(console: Console, visit: Visit, kind: Kind) -> None:
    person = visit("dave")
    assert is_in(person)
    ((subject, sid),) = execute(console, "SELECT subject, sid FROM console_sessions ORDER BY created_at DESC LIMIT 1")
    value = {Kind.USER: subject, Kind.SESSION: sid, Kind.CLIENT: "tollgate-console"}[kind]
    now = datetime.now(UTC)

    async def revoke() -> None:
        store = RevocationStore(SecretStr(console.database_url), 5)
        await store.start()
        before = None if kind is Kind.SESSION else now
        entry = Entry(kind, "demo", str(value), not_before=before, expires_at=now + timedelta(hours=1))
        try:
            await store.revoke(entry)
            assert not await asyncio.to_thread(is_in, person)
        finally:
            await store.lift(entry)
            await store.stop()

    asyncio.run(revoke())
    assert not is_in(person), "it comes back when the revocation is lifted"


def test_what_the_identity_provider_took_away_is_gone_at_the_next_request(console: Console, visit: Visit) -> None:
    person = visit("carol")
    assert "Administration" in person.get("/tokens").text
    ((subject,),) = execute(console, "SELECT subject FROM console_sessions ORDER BY created_at DESC LIMIT 1")

    def change(what: str) -> None:
        """Of her alone: what the service has in memory of the others would lag behind."""
        execute(console, f"UPDATE owners SET {what} WHERE subject = %s", subject)

    change("current_roles = '{}', current_groups = '{}', checked_at = now() + interval '1s'")
    try:
        assert "Administration" not in person.get("/tokens").text
        change("enabled = false")
        assert not is_in(person)
    finally:
        change("current_roles = NULL, current_groups = NULL, checked_at = NULL, enabled = true")


def test_of_many_requests_at_once_one_refreshes(console: Console, visit: Visit) -> None:
    """The identity provider takes a second use of a refresh token for theft, and ends the session."""
    person = visit("erin")
    for _ in range(2):
        before = execute(console, "SELECT secret FROM console_sessions ORDER BY created_at DESC LIMIT 1")
        execute(console, "UPDATE console_sessions SET refresh_at = now() - interval '1 minute'")
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: person.get("/tokens").status_code, range(8)))
        assert answers == [200] * 8
        assert execute(console, "SELECT secret FROM console_sessions ORDER BY created_at DESC LIMIT 1") != before


def test_a_logout_at_the_identity_provider_ends_it_at_the_next_refresh(console: Console, visit: Visit) -> None:
    person = visit("erin")
    location = person.post("/logout").headers["location"]
    assert not is_in(person)
    assert location.startswith(f"{console.realm.issuer}/protocol/openid-connect/logout?")
    assert "id_token_hint=" in location
    back = httpx.get(location)
    assert back.headers["location"].startswith(console.at("/signed-out")), "the identity provider does not know us"


def test_who_is_signed_in_stays_so_while_the_identity_provider_is_away(console: Console, visit: Visit) -> None:
    person, other = visit("erin"), visit()
    console.realm.stop()
    try:
        execute(console, "UPDATE console_sessions SET refresh_at = now() - interval '1 minute'")
        assert is_in(person)
        grant = person.make("while-it-is-away")
        assert person.post(f"/tokens/{grant}/revoke").status_code == 303
    finally:
        console.realm.start()
    assert is_in(person)
    assert other.get("/login").status_code == 303
