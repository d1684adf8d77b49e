"""Real processes are killed, restored from old files, replaced by each other: nothing promised is forgotten."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from ext_authz.db import redis_keys
from ext_authz.revocation import feed, rebuild
from ext_authz.revocation.entry import Kind, Target
from tests.e2e.revocation.test_copying import MANY, Gate
from tests.e2e.revocation.world import World, entry, world_of
from tests.postgres import PostgresServer, running_postgres
from tests.services import RedisServer, running_redis
from tests.waiting import running, until

ROW = "INSERT INTO revocations (kind, issuer, value) VALUES ('token', 'demo', %s)"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis to kill."""
    with running_redis(tmp_path) as server:
        yield server


@pytest.fixture
async def world(database_url: str, server: RedisServer) -> AsyncIterator[World]:
    async with world_of(database_url, server.url) as world:
        yield world


async def test_with_redis_down_the_receipt_names_it_and_the_mirror_copies_later(
    world: World, server: RedisServer
) -> None:
    async with running(mirror := world.mirror()):
        await mirror.synced.wait()
        server.kill()
        receipt = await world.operations.write(entry("jti"))
        assert (receipt.postgres, receipt.redis, receipt.everywhere) == (True, False, False)
        assert receipt.sentence.startswith("postgres holds it, redis does not (")
        assert await world.store.revoked([(("t:demo:jti", "", "", "", ""), 0)]) == [Kind.TOKEN]
        server.start()
        await until(world.complete)
        assert await world.held("t:demo:jti") == "1"


async def test_a_redis_that_cannot_be_used_is_logged_with_its_cause(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    def said() -> list[str]:
        return [line.__dict__["error"] for line in caplog.records if "the copy in redis" in line.getMessage()]

    async def kept_not() -> bool:
        return bool(said())

    async with running(mirror := world.mirror()):
        await mirror.synced.wait()
        await world.redis.config_set("min-replicas-to-write", 1)
        await world.operations.write(entry("jti"))
        await until(kept_not)
        await world.redis.config_set("min-replicas-to-write", 0)
        await until(world.complete)
    assert said() == ["too few replicas follow it (NOREPLICAS): bring them back, or lower min-replicas-to-write"]


async def test_a_connection_to_a_redis_that_has_gone_does_not_spoil_the_receipt(
    world: World, server: RedisServer
) -> None:
    assert (await world.operations.write(entry("before"))).everywhere
    server.kill()
    server.start()
    assert (await world.operations.write(entry("after"))).everywhere


async def test_a_row_whose_write_to_redis_failed_follows_without_a_rebuild(world: World) -> None:
    async with running(mirror := world.mirror()):
        await mirror.synced.wait()
        await world.store.revoke(entry("jti"))  # the revoker died before it reached Redis
        await until(lambda: world.held("t:demo:jti"), seconds=5)


async def test_a_restarted_redis_is_another_process_and_is_believed_only_after_a_rebuild(
    world: World, server: RedisServer
) -> None:
    async with running(mirror := world.mirror()):
        await mirror.synced.wait()
        assert (await world.operations.write(entry("jti"))).everywhere
    server.kill()
    server.start()
    await world.redis.connection_pool.disconnect()
    assert not await world.complete()
    async with running(world.mirror()):
        await until(world.complete)
    assert await world.held("t:demo:jti") == "1"


async def test_a_redis_restored_from_an_old_file_is_not_believed(world: World, server: RedisServer) -> None:
    file, backup = server.directory / "appendonly.aof", server.directory / "backup"
    async with running(mirror := world.mirror()):
        await mirror.synced.wait()
        await world.operations.write(entry("lifted-since"))
        shutil.copy(file, backup)
        await world.operations.lift(Target(Kind.TOKEN, "demo", "lifted-since"))
        await world.operations.write(entry("revoked-since"))
    server.kill()
    shutil.copy(backup, file)
    server.start()
    await world.redis.connection_pool.disconnect()
    assert await world.held("t:demo:lifted-since") == "1"
    assert await world.held("t:demo:revoked-since") is None
    assert not await world.complete()
    async with running(world.mirror()):
        await until(world.complete)
    assert await world.held("t:demo:lifted-since") is None
    assert await world.held("t:demo:revoked-since") == "1"


async def test_a_primary_that_comes_back_with_less_is_not_believed(
    world: World, server: RedisServer, tmp_path: Path
) -> None:
    """Its process never ended, so its run_id fits its old marker; its history gives it away."""
    (tmp_path / "other").mkdir()
    with running_redis(tmp_path / "other") as other:
        async with Redis.from_url(other.url) as interim, running(mirror := world.mirror()):
            await mirror.synced.wait()
            before = (await world.copy.status()).lineage
            await interim.execute_command("REPLICAOF", "127.0.0.1", server.port)  # type: ignore[no-untyped-call]
            await until(lambda: _in_sync(interim))
            await interim.execute_command("REPLICAOF", "NO", "ONE")  # type: ignore[no-untyped-call]
            assert (await world.operations.write(entry("lost"))).everywhere  # still written to the old primary
            await world.redis.execute_command("REPLICAOF", "127.0.0.1", other.port)  # type: ignore[no-untyped-call]
            await until(lambda: _in_sync(world.redis))
            await world.redis.execute_command("REPLICAOF", "NO", "ONE")  # type: ignore[no-untyped-call]
            assert (await world.copy.status()).lineage != before
            await until(lambda: world.held("t:demo:lost"), seconds=10)
            await until(world.complete)


async def _in_sync(redis: Redis) -> bool:
    info = await redis.info("replication")
    return info["role"] == "slave" and info["master_link_status"] == "up" and not info["master_sync_in_progress"]


@pytest.fixture
def postgres() -> Iterator[PostgresServer]:
    """A Postgres to kill."""
    with running_postgres() as server:
        yield server


async def test_postgres_killed_nothing_is_promised_and_nothing_believed_that_cannot_be(
    postgres: PostgresServer, redis_url: str
) -> None:
    async with world_of(postgres.url, redis_url) as world, running(mirror := world.mirror()):
        await mirror.synced.wait()
        assert (await world.operations.write(entry("before"))).everywhere
        postgres.kill()
        receipt = await world.operations.write(entry("meanwhile"))
        assert (receipt.postgres, receipt.redis) == (False, False)
        assert receipt.sentence.startswith("not known to be revoked: postgres did not confirm it")
        assert await world.complete()  # what Redis holds is still all there is
        await world.redis.flushall()
        postgres.start()
        await world.sql(ROW, "after")
        await until(world.complete)
        await until(lambda: world.held("t:demo:after"), seconds=5)
        assert await world.held("t:demo:before") == "1"
        assert await world.held("t:demo:meanwhile") is None


class _Backup:
    """Postgres as it was, down to the last file; `restore` makes it so again."""

    def __init__(self, postgres: PostgresServer, directory: Path) -> None:
        self._postgres = postgres
        self._copy = directory / "backup"
        self._exchange(postgres.directory, self._copy)

    def restore(self) -> None:
        self._exchange(self._copy, self._postgres.directory)

    def _exchange(self, source: Path, target: Path) -> None:
        self._postgres.kill()
        shutil.rmtree(target, ignore_errors=True)
        subprocess.run(["cp", "-a", source, target], check=True)
        for left in ("postmaster.pid", ".s.PGSQL.5432", ".s.PGSQL.5432.lock"):
            (self._postgres.directory / left).unlink(missing_ok=True)
        self._postgres.start()


@pytest.mark.parametrize("noticed", ["while we look", "by nobody"])
async def test_a_postgres_restored_to_an_older_state_is_the_truth(
    postgres: PostgresServer, redis_url: str, tmp_path: Path, noticed: str
) -> None:
    """Its transactions count from further back: nobody may wait for numbers that come again much later."""
    async with world_of(postgres.url, redis_url) as world:
        assert (await world.operations.write(entry("lifted-since"))).everywhere
        backup = _Backup(postgres, tmp_path)
        async with running(mirror := world.mirror()):
            await mirror.synced.wait()
            assert await world.operations.lift(Target(Kind.TOKEN, "demo", "lifted-since"))
            assert (await world.operations.write(entry("revoked-since"))).everywhere
            for number in range(20):
                await world.sql(ROW, f"since-{number}")
            await until(lambda: world.held("t:demo:since-19"))
        backup.restore()
        if noticed == "by nobody":
            await world.sql(ROW, "after")
            for _ in range(40):  # until transactions have numbers beyond those that were seen
                await world.sql("CREATE TABLE something ()")
                await world.sql("DROP TABLE something")
            await world.redis.delete(redis_keys.compared())  # five minutes later
        async with running(world.mirror()):
            if noticed == "while we look":
                await world.sql(ROW, "after")
            await until(lambda: world.held("t:demo:after"))
            await until(lambda: world.held("t:demo:lifted-since"))
            await until(world.complete)
            assert await world.held("t:demo:revoked-since") == "1"  # lost by Postgres, and still refused
            assert await world.operations.lift(Target(Kind.TOKEN, "demo", "lifted-since"))
            assert await world.held("t:demo:lifted-since") is None


async def test_a_redis_killed_in_the_middle_of_a_rebuild_is_believed_only_when_all_is_there(
    world: World, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.sql(MANY)
    gate = Gate(monkeypatch, "pages", feed, rebuild)
    async with running(world.mirror()):
        await gate.reached.wait()
        server.kill()
        server.start()
        await world.redis.connection_pool.disconnect()
        gate.opened.set()
        await until(world.complete)
        held = await world.redis.mget([redis_keys.revocation(f"t:demo:old-{number}") for number in range(1, 401)])
        assert None not in held


async def test_a_primary_that_came_back_with_less_before_we_started_is_not_believed(
    world: World, server: RedisServer, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    with running_redis(tmp_path / "other") as other:
        async with Redis.from_url(other.url) as interim:
            async with running(mirror := world.mirror()):
                await mirror.synced.wait()
            await _take_over(interim, server.port)
            assert (await world.operations.write(entry("lost"))).everywhere  # still written to the old primary
            await _take_over(world.redis, other.port)
            assert await world.complete()  # so it says
            await world.redis.set(redis_keys.compared(), 0)  # and nobody looks closer for now
            assert await world.held("t:demo:lost") is None
            async with running(world.mirror()):
                await until(lambda: world.held("t:demo:lost"))
                await until(world.complete)


async def _take_over(redis: Redis, port: int) -> None:
    """Follow another one, then lead."""
    await redis.execute_command("REPLICAOF", "127.0.0.1", port)  # type: ignore[no-untyped-call]
    await until(lambda: _in_sync(redis))
    await redis.execute_command("REPLICAOF", "NO", "ONE")  # type: ignore[no-untyped-call]
