"""A Keycloak, or something in front of it, that refuses, is wrong, or answers what it should not: nobody is touched."""

from __future__ import annotations

import json
from contextlib import suppress
from functools import partial
from itertools import product

import pytest

from ext_authz.errors import Unavailable
from ext_authz.poller import polled_owners
from ext_authz.poller.event_reader import EventReader
from ext_authz.poller.state_checker import StateChecker
from tests.e2e.poller.test_events import new_token
from tests.e2e.poller.world import World
from tests.fake_keycloak import FakeKeycloak, FakeUser

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


async def test_events_that_are_too_long_for_one_answer(world: World, realm: FakeKeycloak) -> None:
    """Somebody has changed large clients, one after the other: what happened afterwards is not missed."""
    reader, _ = await world.parts()
    await reader.read()
    now = realm.now()
    for number in range(12):
        large = realm.happened("clients/c-1", kind="CLIENT", representation=json.dumps({"x": "y" * 1_000_000}))
        large["time"] = now + number // 3
    realm.happened("users/alice/reset-password", "ACTION")["time"] = now + 100
    await reader.read()
    assert await world.revoked() == {"u:main:alice"}
    realm.happened("clients/c-1", kind="CLIENT", representation="x" * 9_000_000)
    with pytest.raises(Unavailable, match="longer than 8388608 bytes"):
        await reader.read()


async def test_a_not_before_that_is_no_time(world: World, realm: FakeKeycloak) -> None:
    """Who may change users may write any number."""
    reader, checker = await world.parts()
    realm.users["alice"] = FakeUser(roles={"infer"}, not_before=-5)
    await _polled(world, reader, checker)
    assert await world.owner("alice") == (True, {"infer"}, set())
    assert await world.revoked() == set()
    realm.users["alice"].not_before = 2**40
    with pytest.raises(Unavailable, match="its answer about users is not as Keycloak answers"):
        await _polled_again(world, checker)
    assert await world.revoked() == set()


async def test_a_clock_that_is_wrong_by_hours_dates_nothing(world: World, realm: FakeKeycloak) -> None:
    reader, _ = await world.parts()
    await reader.read()
    realm.happened("users/alice/reset-password", "ACTION")
    realm.ahead = -7200
    await new_token(world)
    with pytest.raises(Unavailable, match="its clock and ours differ by more than an hour: set them"):
        await reader.read()
    realm.ahead = 0
    await reader.read()
    assert await world.revoked() == {"u:main:alice"}
    assert await world.not_before("u:main:alice") == pytest.approx(realm.now() / 1000, abs=10)


@pytest.mark.parametrize("token", ["e30.{}.c2ln\r\nx: y", "\u00e9.{}.c2ln", "e30.{}.c2ln x"])
async def test_a_token_that_fits_in_no_header_is_not_shown(world: World, realm: FakeKeycloak, token: str) -> None:
    reader, _ = await world.parts()
    claims = str(realm.token()["access_token"]).split(".")[1]
    realm.bodies["token"] = json.dumps({"access_token": token.format(claims), "expires_in": 60}).encode()
    with pytest.raises(Unavailable, match="its answer about the token is not as Keycloak answers") as refused:
        await reader.read()
    assert "c2ln" not in str(refused.value)
