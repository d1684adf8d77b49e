"""Events of a Keycloak that does what a test wants: each is obeyed once, in whatever order they appear."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from itertools import product

import pytest

from ext_authz.db.lease import Lease, Lost
from ext_authz.errors import Unavailable
from ext_authz.signals import polled_owners
from ext_authz.signals.admin_api import PAGE
from ext_authz.signals.event_reader import EventReader
from ext_authz.signals.realm_events import OVERLAP
from ext_authz.signals.state_checker import StateChecker
from tests.e2e.poller.world import ISSUER, World, until
from tests.fake_keycloak import FakeKeycloak, FakeUser


async def test_each_event_is_obeyed_once(world: World, realm: FakeKeycloak) -> None:
    reader, _ = await world.parts()
    await reader.read()
    event = realm.happened("users/alice/reset-password", "ACTION")
    realm.did("LOGOUT", "bob", sessionId="session-1")
    await reader.read()
    assert await world.revoked() == {"u:main:alice", "s:main:session-1"}
    assert await world.not_before("u:main:alice") == pytest.approx(event["time"] / 1000, abs=0.001)
    before = await world.rows("SELECT count(*) FROM revocation_history")
    await reader.read()
    assert await world.rows("SELECT count(*) FROM revocation_history") == before


async def test_what_appears_late_is_not_missed(world: World, realm: FakeKeycloak) -> None:
    """A transaction of Keycloak that began before others and is committed after them."""
    reader, _ = await world.parts()
    await reader.read()
    realm.happened("users/first/reset-password", "ACTION")
    await reader.read()
    late = realm.happened("users/late/reset-password", "ACTION")
    late["time"] -= OVERLAP - 1000
    await reader.read()
    assert await world.revoked() == {"u:main:first", "u:main:late"}


async def test_more_than_a_page_at_the_same_millisecond(world: World, realm: FakeKeycloak) -> None:
    reader, _ = await world.parts()
    await reader.read()
    now = realm.now()
    for number in range(2 * PAGE + 50):
        realm.happened(f"users/user-{number}/reset-password", "ACTION")["time"] = now
    realm.happened("users/last/reset-password", "ACTION")["time"] = now + 5
    await reader.read()
    assert await world.revoked() == {f"u:main:user-{number}" for number in range(2 * PAGE + 50)} | {"u:main:last"}


async def test_another_process_continues_where_the_first_one_stopped(world: World, realm: FakeKeycloak) -> None:
    reader, _ = await world.parts()
    await reader.read()
    realm.happened("users/alice/reset-password", "ACTION")
    await reader.read()
    realm.happened("users/bob/reset-password", "ACTION")
    second, _ = await world.parts()
    asked = realm.asked["admin-events"]
    await second.read()
    assert await world.revoked() == {"u:main:alice", "u:main:bob"}
    assert realm.asked["admin-events"] == asked + 1
    realm.happened("users/carol/reset-password", "ACTION")
    with pytest.raises(Lost):
        await reader.read()
    assert "u:main:carol" not in await world.revoked()


@pytest.mark.parametrize("where", ["cleared", "clock set back"])
async def test_everybody_is_looked_up_where_events_may_be_missing(
    world: World, realm: FakeKeycloak, where: str
) -> None:
    reader, checker = await world.parts()
    realm.users["alice"] = FakeUser(roles={"infer"})
    await world.seen("alice")
    realm.ahead = 300 if where == "clock set back" else 0
    await reader.read()
    realm.happened("users/bob/reset-password", "ACTION")
    await reader.read()
    while await checker.check_some():
        pass
    realm.users["alice"].roles.clear()
    realm.admin_events.clear()
    realm.ahead = 0
    await _new_token(world)
    assert await reader.read() is True
    assert await checker.check_some()
    assert await world.owner("alice") == (True, set(), set())
    assert await reader.read() is False


async def _new_token(world: World) -> None:
    """A skew is learned with the next token."""
    for keycloak in world.keycloaks:
        keycloak._token_ends = float("-inf")


async def test_clocks_that_differ(world: World, realm: FakeKeycloak) -> None:
    """A token of Keycloak is dated by its clock, one of our own by ours: both end."""
    reader, checker = await world.parts()
    realm.ahead = -100
    await reader.read()
    realm.users["alice"] = FakeUser()
    event = realm.happened("users/alice/reset-password", "ACTION")
    realm.happened("users/alice/role-mappings/clients/c-1", "DELETE")
    await reader.read()
    assert await world.not_before("u:main:alice") == pytest.approx(event["time"] / 1000 + 100, abs=2)
    asked_at = realm.now() / 1000
    await checker.check_some()
    ((checked_at,),) = await world.rows("SELECT extract(epoch FROM checked_at)::float8 FROM owners")
    assert asked_at <= checked_at <= asked_at + 3


async def test_a_realm_and_a_client_that_are_switched_off(world: World, realm: FakeKeycloak) -> None:
    reader, _ = await world.parts()
    await reader.read()
    realm.enabled = False
    realm.happened("clients/c-1", kind="CLIENT")
    await reader.read()
    assert await world.revoked() == {"c:main:triton-gateway"}
    realm.happened("", kind="REALM")
    await reader.read()
    assert await world.revoked() == {"c:main:triton-gateway", "i:main:"}


SENTENCES = {
    ("admin-events", 403): "give it the role view-events of the client realm-management",
    ("users", 403): "give it the role view-users",
    ("clients", 403): "give it the role view-clients",
    ("users/alice/role-mappings/clients", 403): "give it the role view-clients",
    ("admin-events", 302): "redirect, which is not followed: set jwks_url to the final URL",
    ("admin-events", 404): "status 404 for admin-events",
    ("token", 401): "set TOLLGATE_CONSOLE_CLIENT_SECRET to the secret of that client, and turn its service account on",
    ("token", 500): "status 500 in place of a token",
    ("users", 401): "it refuses its own token",
    ("clients", 404): "status 404 for clients",
}
"""By where Keycloak answers what."""


async def test_what_keycloak_refuses_is_one_sentence(world: World, realm: FakeKeycloak) -> None:
    for (where, status), sentence in SENTENCES.items():
        reader, checker = await world.parts()
        realm.users["alice"] = FakeUser(roles={"infer"})
        await world.rows("DELETE FROM polled_owners RETURNING 1")
        realm.statuses = {where: status}
        with pytest.raises(Unavailable, match="keycloak") as refused:
            await _polled(world, reader, checker)
        assert sentence in refused.value.detail
        assert world.secret not in refused.value.detail
        realm.statuses.clear()
        await _polled(world, reader, checker)


BODIES = (
    *(b"", b"[]", b"{}", b"null", b"[null]", b'[{"time": "1"}]', b"[" * 100_000, b"\xff", b'[{"time": 1e400}]', b'"x"'),
    *(b'[{"time": 2, "id": "b"}, {"time": 1, "id": "a"}]', b'{"access_token": "a.b", "expires_in": 1}'),
)


async def test_malformed_answers_change_nothing(world: World, realm: FakeKeycloak) -> None:
    realm.users["alice"] = FakeUser(roles={"infer"})
    reader, checker = await world.parts()
    await _polled(world, reader, checker)
    as_it_was = await world.owner("alice")
    for where, body in product(["token", "admin-events", "users/alice", "clients"], BODIES):
        reader, checker = await world.parts()
        realm.bodies = {where: body}
        with suppress(Unavailable):
            await _polled(world, reader, checker)
        assert await world.revoked() == set()
        assert await world.owner("alice") == as_it_was, (where, body)


async def test_a_client_that_is_not_shown(world: World, realm: FakeKeycloak) -> None:
    reader, checker = await world.parts()
    realm.users["alice"], realm.bodies = FakeUser(), {"clients": b"[]"}
    with pytest.raises(Unavailable, match="it shows no client triton-gateway, whose roles the policy reads: give the"):
        await _polled(world, reader, checker)


@pytest.mark.parametrize(
    "body",
    [b"", b"default backend - 404", b'{"error": "HTTP 404 Not Found"}', b'{"error": "Realm not found."}', b'["error"]'],
)
async def test_only_keycloak_can_say_that_a_user_is_gone(world: World, realm: FakeKeycloak, body: bytes) -> None:
    """A proxy in front of it answers 404 as well, for everybody."""
    reader, checker = await world.parts()
    realm.users["alice"] = FakeUser(roles={"infer"})
    await _polled(world, reader, checker)
    as_it_was = await world.owner("alice")
    for where in ("users/alice", "users/alice/groups", "users/alice/role-mappings"):
        realm.statuses, realm.bodies = {where: 404}, {where: body}
        with pytest.raises(Unavailable, match="it has no realm ml" if b"Realm" in body else "status 404 for users"):
            await _polled(world, reader, checker)
    assert await world.owner("alice") == as_it_was
    assert await world.revoked() == set()
    del realm.users["alice"]
    realm.statuses, realm.bodies = {}, {}
    await _polled_again(world, checker)
    assert await world.revoked() == {"u:main:alice"}


async def _polled_again(world: World, checker: StateChecker) -> None:
    """Of users who are known."""
    await world.rows("UPDATE polled_owners SET not_until = '-infinity', enabled = true RETURNING 1")
    await world.pool.run(partial(polled_owners.raise_all, issuer=world.issuer))
    await checker.check_some()


async def _polled(world: World, reader: EventReader, checker: StateChecker) -> None:
    await world.rows("DELETE FROM polled_owners RETURNING 1")
    await world.seen("alice")
    await reader.read()
    await world.pool.run(partial(polled_owners.raise_all, issuer=world.issuer))
    await checker.check_some()


async def test_an_endless_answer(world: World, realm: FakeKeycloak) -> None:
    reader, _ = await world.parts()
    realm.bodies["admin-events"] = b" " * 9_000_000
    with pytest.raises(Unavailable, match="longer than 8388608 bytes"):
        await reader.read()


async def test_what_cannot_be_revoked_stops_nobody(world: World, realm: FakeKeycloak) -> None:
    reader, _ = await world.parts()
    await reader.read()
    realm.did("LOGOUT", "bob", sessionId="s" * 600)
    realm.did("LOGOUT", "bob", sessionId="bad\0id")
    realm.did("LOGOUT", "bob", sessionId="good")
    await reader.read()
    assert await world.revoked() == {"s:main:good"}


async def test_the_lease_passes_on_when_its_holder_is_gone(world: World) -> None:
    first, second = (Lease(world.pool, f"poller:{ISSUER}", seconds=0.3) for _ in range(2))
    assert await first.take()
    assert not await second.take()
    await until(second.take)
    assert not await first.take()
