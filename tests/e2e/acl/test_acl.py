"""The documented ACL user is enough for everything, on every server that we name, and every command in it is used."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from redis import Redis

from ext_authz.db import redis_keys
from tests import redis_acl
from tests.e2e.cluster.conftest import jwks_url
from tests.e2e.cluster.world import World, world_of
from tests.services import RedisServer, redis_programs, running_redis
from tests.waiting import until

__all__ = ["jwks_url"]

OK, REFUSED = 0, 16


@pytest.fixture(params=redis_programs().values(), ids=list(redis_programs()))
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RedisServer]:
    with running_redis(tmp_path, program=request.param) as server:
        yield server


@pytest.fixture
async def world(
    server: RedisServer, database_url: str, jwks_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[World]:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    url = redis_acl.allow(server)
    with Redis.from_url(server.url) as admin:
        admin.config_resetstat()
    async with world_of([server], database_url, jwks_url, tmp_path, shards=1, url=url) as world:
        yield world


async def test_everything_works_by_the_documented_user_and_needs_each_command(
    world: World, server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    assert (await world.check("alice")).status.code == OK
    assert await world.tollgate("revoke", "user", "alice", "--issuer", "kc") == 0
    assert (await world.check("alice")).status.code == REFUSED
    await world.sql("INSERT INTO revocations (kind, issuer, value) VALUES ('user', 'kc', 'bob')")
    await until(lambda: world.refused("bob"))
    await move_the_ledger(world)
    await until(world.all_complete)
    assert [record for record in caplog.records if record.levelno > logging.WARNING] == []

    with Redis.from_url(server.url) as admin:
        admin.flushall()
    await until(world.all_complete)
    assert await world.refused("bob")
    assert redis_acl.commands() - redis_acl.used(server) == set(), "the recipe allows more than is used"


async def move_the_ledger(world: World) -> None:
    with world.command("usage-worker", "--name", "worker") as worker:
        await until(lambda: recorded(world))
        worker.terminate()
        assert worker.wait(20) == 0


async def recorded(world: World) -> bool:
    ((events,),) = await world.sql("SELECT count(*) FROM usage_events")
    return bool(events and not await world.redis.xlen(redis_keys.events()))
