"""Events of a Keycloak that does what a test wants: each is obeyed once, in whatever order they appear."""

from __future__ import annotations

import pytest

from ext_authz.db.lease import Lease, Lost
from ext_authz.poller.admin_api import PAGE
from ext_authz.poller.realm_events import OVERLAP
from tests.e2e.poller.world import ISSUER, World
from tests.fake_keycloak import FakeKeycloak, FakeUser
from tests.waiting import until


async def test_each_event_is_obeyed_once(world: World, realm: FakeKeycloak) -> None:
    reader, _ = await world.parts()
    await reader.read()
    event = realm.happened("users/alice/reset-password", "ACTION")
    realm.did("LOGOUT", "bob", sessionId="session-1")
    await reader.read()
    assert await world.revoked() == {"u:main:alice", "s:main:session-1"}
    assert await world.rows("SELECT DISTINCT via FROM audit_log") == [("signal",)]
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
    await new_token(world)
    assert await reader.read() is True
    assert await checker.check_some()
    assert await world.owner("alice") == (True, set(), set())
    assert await reader.read() is False


async def new_token(world: World) -> None:
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


async def test_what_cannot_be_revoked_stops_nobody(world: World, realm: FakeKeycloak) -> None:
    reader, _ = await world.parts()
    await reader.read()
    realm.did("LOGOUT", "bob", sessionId="s" * 600)
    realm.did("LOGOUT", "bob", sessionId="bad\0id")
    realm.happened("sessions/", "DELETE", "USER_SESSION")
    realm.did("LOGOUT", "bob", sessionId="good")
    await reader.read()
    assert await world.revoked() == {"s:main:good"}


async def test_the_lease_passes_on_when_its_holder_is_gone(world: World) -> None:
    first, second = (Lease(world.pool, f"poller:{ISSUER}", seconds=0.3) for _ in range(2))
    assert await first.take()
    assert not await second.take()
    await until(second.take)
    assert not await first.take()
