"""Every state in which a real Redis does not settle: down, one cause, said once, mended without a restart."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct
from redis import Redis

from ext_authz.errors import Unavailable
from ext_authz.settlement.model import Outcome
from tests.e2e.server.certificates import Authority
from tests.e2e.settlement.redis_world import RedisWorld
from tests.services import RedisServer, redis_programs, running_redis, wait_for
from tests.unit.settlement.world import ANONYMOUS
from tests.waiting import until

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


def _lose_primary(redis: Any) -> None:  # noqa: ANN401
    redis.config_set("replica-serve-stale-data", "no")
    redis.replicaof("127.0.0.1", 1)


def _be_primary(redis: Any) -> None:  # noqa: ANN401
    redis.replicaof("NO", "ONE")
    redis.config_set("replica-serve-stale-data", "yes")


def _load(redis: Any) -> None:  # noqa: ANN401
    """For two seconds, in which it answers others every 2 MiB, or 20 keys."""
    redis.config_set("rdbcompression", "no")
    redis.config_set("key-load-delay", 10_000)
    redis.mset({f"key-{number}": "x" * 100_000 for number in range(200)})
    redis.connection_pool.get_connection().send_command("DEBUG", "RELOAD")
    wait_for(lambda: is_loading(redis))


def _be_loaded(redis: Any) -> None:  # noqa: ANN401
    wait_for(lambda: not is_loading(redis))
    redis.config_set("key-load-delay", 0)
    redis.delete(*(f"key-{number}" for number in range(200)))


def is_loading(redis: Any) -> bool:  # noqa: ANN401
    return bool(redis.info("persistence")["loading"])


def _let_nobody_in(redis: Any) -> None:  # noqa: ANN401
    redis.config_set("maxclients", 1)
    redis.client_kill_filter(_type="normal", skipme=True)


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
    "a replica without its primary": State("MASTERDOWN", _lose_primary, _be_primary),
    "loading its data": State("LOADING", _load, _be_loaded),
    "with no more connections": State("raise maxclients", _let_nobody_in, _set("maxclients", 1000)),
    "with another's key": State(
        "WRONGTYPE", lambda redis: redis.set("{tg0}:events", 1), lambda redis: redis.delete("{tg0}:events")
    ),
}


@pytest.fixture(scope="module", params=PROGRAMS.values(), ids=list(PROGRAMS))
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    debug = ["--enable-debug-command", "local"] if "valkey" in request.param else []  # 6.2 asks nobody
    with running_redis(tmp_path_factory.mktemp("states"), *debug, program=request.param) as server:
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


async def settles(world: RedisWorld) -> bool:
    """Not before its room was looked at again, which is done once a second."""
    with suppress(Unavailable):
        return (await world.settlement.settle(ANONYMOUS)).outcome is Outcome.OK
    return False


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
            await until(lambda: settles(world))
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


async def test_a_server_that_is_no_redis_is_reported() -> None:
    async def answer_as_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(10_000):
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    http = await asyncio.start_server(answer_as_http, "127.0.0.1", 0)
    host, port = http.sockets[0].getsockname()
    async with started(f"redis://{host}:{port}/0") as world:
        await until(lambda: "does not speak the Redis protocol" in world.settlement.cause())
    http.close()


async def test_a_url_that_does_not_fit_the_server_is_an_error_with_a_hint(tmp_path: Path) -> None:
    with running_redis(tmp_path) as server:
        with Redis.from_url(server.url) as admin:
            admin.config_set("requirepass", "right")
        place = server.url.removeprefix("redis://")
        for url, sentence in (
            (f"redis://{place}", "requires a password"),
            (f"redis://:wrong@{place}", "refuses the user or password"),
            (f"redis://nobody:right@{place}", "refuses the user or password"),
            (f"redis://:right@{place}99", "no such database"),
        ):
            async with started(url) as world:
                cause = (await refused(world)).pop()
                assert sentence in cause
                assert "right" not in cause
                assert "wrong" not in cause
        async with started(f"redis://:right@{place}") as world:
            assert world.settlement.up()


async def test_a_cluster_without_slots_is_reported(tmp_path: Path) -> None:
    with running_redis(tmp_path, "--cluster-enabled", "yes") as server:
        async with started(server.url) as world:
            await until(lambda: "CLUSTERDOWN" in world.settlement.cause())


@asynccontextmanager
async def behind_tls(server: RedisServer, authority: Authority) -> AsyncIterator[str]:
    """Its host and port, for those who speak TLS."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*authority.issue("redis"))

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def both_ways(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner, outer = await asyncio.open_connection("127.0.0.1", server.port)
        await asyncio.gather(carry(reader, outer), carry(inner, writer))

    front = await asyncio.start_server(both_ways, "127.0.0.1", 0, ssl=context)
    try:
        host, port = front.sockets[0].getsockname()
        yield f"{host}:{port}"
    finally:
        front.close()


async def test_who_speaks_tls_to_whom(server: RedisServer, tmp_path: Path) -> None:
    authority = Authority(tmp_path, "authority")
    unknown_ca = Authority(tmp_path, "unknown_ca")
    async with behind_tls(server, authority) as secured:
        for url, sentence in (
            (f"redis://{secured}/0", "speaks TLS only"),
            (f"rediss://127.0.0.1:{server.port}/0", "no answer in time to TLS: rediss:// is with TLS"),
            (f"rediss://{secured}/0", "its certificate is signed by an unknown authority"),
            (
                f"rediss://{secured}/0?ssl_ca_certs={unknown_ca.certificate}",
                "its certificate is signed by an unknown authority",
            ),
            (
                f"rediss://{secured.replace('127.0.0.1', 'localhost')}/0?ssl_ca_certs={authority.certificate}",
                "its certificate is for another host",
            ),
        ):
            async with started(url) as world:
                assert sentence in (await refused(world)).pop()
        async with started(f"rediss://{secured}/0?ssl_ca_certs={authority.certificate}") as world:
            assert world.settlement.up()
