"""A process that is killed in the middle of changes, and a Keycloak that is away: nothing is lost."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

from ext_authz.poller import poller
from tests.e2e.poller.world import World
from tests.fake_keycloak import FakeKeycloak, FakeUser
from tests.waiting import running, until

USERS = 40


async def test_a_process_that_is_killed_is_followed_by_another(
    world: World, realm: FakeKeycloak, database_url: str, redis_url: str
) -> None:
    names = [f"user-{number}" for number in range(USERS)]
    realm.users = {name: FakeUser(roles={"infer"}) for name in names}
    await world.seen(*names)
    command = [sys.executable, "-m", "tests.e2e.poller.process", database_url, redis_url, realm.url]
    process = await asyncio.create_subprocess_exec(*command, stderr=subprocess.PIPE)
    await until(lambda: _known(world, "last"), seconds=60)
    for number, name in enumerate(names):
        realm.users[name].roles.clear()
        realm.happened(f"users/{name}/role-mappings/clients/c-1", "DELETE", "CLIENT_ROLE_MAPPING")
        realm.happened(f"users/{name}/reset-password", "ACTION")
        if number == USERS // 2:
            await until(lambda: _revoked(world, "user-0"))
            process.kill()
    await process.wait()
    assert realm.users.keys() - {each.removeprefix("u:main:") for each in await world.revoked()}
    async with running(world.poller()):
        for name in names:
            await until(lambda name=name: _revoked(world, name))  # type: ignore[misc]
            await until(lambda name=name: _has_no_role(world, name))  # type: ignore[misc]
    assert await world.rows("SELECT count(*) FROM audit_log WHERE action = 'signal.obeyed'") == [(USERS,)]


async def test_a_keycloak_that_is_away(world: World, realm: FakeKeycloak, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(poller, "LATE", 0.2)
    realm.users["alice"] = FakeUser(roles={"infer"})
    await world.seen("alice")
    async with running(polling := world.poller(poll=0.1)):
        await until(lambda: _known(world, "alice"))
        assert polling.causes() == {}
        realm.statuses = dict.fromkeys(("admin-events", "events", "users", "token"), 503)
        realm.happened("users/alice/reset-password", "ACTION")
        realm.users["alice"].roles.clear()
        realm.happened("users/alice/role-mappings/clients/c-1", "DELETE", "CLIENT_ROLE_MAPPING")
        await until(lambda: _is(polling.causes().get("keycloak:main") == "status 503 for admin-events"))
        assert await world.revoked() == set()
        realm.statuses.clear()
        await until(lambda: _revoked(world, "alice"))
        await until(lambda: _has_no_role(world, "alice"))
        await until(lambda: _is(polling.causes() == {}))
    assert polling.causes() == {}


async def _is(condition: bool) -> bool:  # noqa: FBT001 - for until
    return condition


async def _known(world: World, name: str) -> bool:
    """`last`: everybody."""
    rows = await world.rows("SELECT count(*) FROM owners")
    return rows[0][0] >= USERS if name == "last" else await world.owner(name) is not None


async def _revoked(world: World, name: str) -> bool:
    return f"u:main:{name}" in await world.revoked()


async def _has_no_role(world: World, name: str) -> bool:
    return await world.owner(name) == (True, set(), set())
