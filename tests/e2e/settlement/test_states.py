"""Every state in which a real Redis does not settle: down, one cause, said once, mended without a restart."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct
from redis import Redis

from ext_authz.errors import Unavailable
from ext_authz.settlement.model import Outcome
from tests.e2e.settlement.redis_world import RedisWorld, until
from tests.services import RedisServer, redis_programs, running_redis
from tests.unit.settlement.world import ANONYMOUS

CHECKS = 300
PROGRAMS = {name: path for name, path in redis_programs().items() if name in ("redis-6.2", "valkey-9")}


class State(Struct, frozen=True):
    """How a Redis gets into it, out of it, and what is said of it."""

    said: str
    enter: Callable[[Any], object]
    leave: Callable[[Any], object]


def _set(name: str, value: object) -> Callable[[Any], object]:
    return lambda redis: redis.config_set(name, value)


def _forbid(command: str) -> Callable[[Any], object]:
    return lambda redis: redis.execute_command("ACL SETUSER default", f"-{command}")


def _permit_all(redis: Any) -> object:  # noqa: ANN401 - redis-py's
    return redis.execute_command("ACL SETUSER default +@all")


def _follow(*primary: str | int) -> Callable[[Any], object]:
    return lambda redis: redis.replicaof(*primary)


STATES = {
    "a replica": State(
        "READONLY", lambda redis: redis.replicaof("127.0.0.1", 1), lambda redis: redis.replicaof("NO", "ONE")
    ),
    "full": State("OOM", _set("maxmemory", 1), _set("maxmemory", 0)),
    "without its replicas": State("NOREPLICAS", _set("min-replicas-to-write", 2), _set("min-replicas-to-write", 0)),
    "without a right to write events": State("NOPERM", _forbid("xadd"), _permit_all),
    "without a right to count": State("NOPERM", _forbid("set"), _permit_all),
    "without a right to read": State("NOPERM", _forbid("mget"), _permit_all),
    "without a right to run scripts": State("EVALSHA", _forbid("evalsha"), _permit_all),
    "with another's key": State(
        "WRONGTYPE", lambda redis: redis.set("{tg0}:events", 1), lambda redis: redis.delete("{tg0}:events")
    ),
}


@pytest.fixture(scope="module", params=PROGRAMS.values(), ids=list(PROGRAMS))
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with running_redis(tmp_path_factory.mktemp("states"), program=request.param) as server:
        yield server


async def refused(world: RedisWorld, times: int = 1) -> set[str]:
    """What checks are refused by."""
    causes = set()
    for _ in range(times):
        with pytest.raises(Unavailable) as outage:
            await world.settlement.settle(ANONYMOUS)
        assert outage.value.dependency == "redis"
        causes.add(outage.value.detail)
    return causes


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [str(line.__dict__["error"]) for line in caplog.records if line.getMessage() == "settlement: redis fails"]


@pytest.mark.parametrize("state", STATES.values(), ids=list(STATES))
async def test_what_does_not_settle_is_down_with_one_cause_and_heals(
    server: RedisServer, state: State, caplog: pytest.LogCaptureFixture
) -> None:
    with Redis.from_url(server.url) as admin:
        async with RedisWorld(server.url) as world:
            assert world.settlement.up()
            state.enter(admin)
            try:
                await until(lambda: not world.settlement.up())
                causes = await refused(world, CHECKS)
                assert not world.settlement.up()
            finally:
                state.leave(admin)
            await until(world.settlement.up)
            assert (await world.settlement.settle(ANONYMOUS)).outcome is Outcome.OK
    assert len(causes) == 1
    assert state.said in causes.pop()
    assert [state.said in line for line in said(caplog)] == [True]


@pytest.mark.parametrize("state", STATES.values(), ids=list(STATES))
async def test_what_has_never_settled_is_not_up_at_the_start(server: RedisServer, state: State) -> None:
    with Redis.from_url(server.url) as admin:
        state.enter(admin)
        world = RedisWorld(server.url)
        try:
            await world.settlement.start()
            assert not world.settlement.up()
            assert state.said in (await refused(world)).pop()
        finally:
            state.leave(admin)
        await until(world.settlement.up)
        await world.settlement.stop()
        await world.client.aclose()


@asynccontextmanager
async def started(url: str) -> AsyncIterator[RedisWorld]:
    world = RedisWorld(url, timeout=0.5)
    await world.settlement.start()
    try:
        yield world
    finally:
        await world.settlement.stop()
        await world.client.aclose()


async def test_what_is_no_redis_says_so() -> None:
    async def answer_as_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(10_000):
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    http = await asyncio.start_server(answer_as_http, "127.0.0.1", 0)
    host, port = http.sockets[0].getsockname()
    async with started(f"redis://{host}:{port}/0") as world:
        await until(lambda: "does not speak Redis" in world.settlement.cause())
    http.close()


async def test_a_url_that_does_not_fit_the_server_says_what_to_change(tmp_path: Path) -> None:
    with running_redis(tmp_path) as server:
        with Redis.from_url(server.url) as admin:
            admin.config_set("requirepass", "right")
        place = server.url.removeprefix("redis://")
        for url, sentence in (
            (f"redis://{place}", "asks for a password"),
            (f"redis://:wrong@{place}", "refuses user or password"),
            (f"redis://nobody:right@{place}", "refuses user or password"),
            (f"redis://:right@{place}99", "no such database"),
        ):
            async with started(url) as world:
                cause = (await refused(world)).pop()
                assert sentence in cause
                assert "right" not in cause
                assert "wrong" not in cause
        async with started(f"redis://:right@{place}") as world:
            assert world.settlement.up()


async def test_a_cluster_without_slots_says_so(tmp_path: Path) -> None:
    with running_redis(tmp_path, "--cluster-enabled", "yes") as server:
        async with started(server.url) as world:
            await until(lambda: "CLUSTERDOWN" in world.settlement.cause())
