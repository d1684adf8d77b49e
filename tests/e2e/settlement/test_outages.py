"""A Redis that dies, hangs, forgets or is set up wrongly: refused in time, never wrongly allowed, back by itself."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from redis import Redis

from ext_authz.errors import Unavailable
from ext_authz.observability.metrics import DEPENDENCY_UP
from ext_authz.settlement.model import Outcome, SettleRequest
from tests.e2e.settlement.redis_world import RedisWorld
from tests.services import RedisServer, free_port
from tests.unit.settlement.world import ANONYMOUS, ask, settle, window
from tests.waiting import until

pytestmark = pytest.mark.alone

TIMEOUT = 1.0
SLACK = 3.0
"""What a busy machine may add."""


@pytest.fixture
async def world(server: RedisServer) -> AsyncIterator[RedisWorld]:
    async with RedisWorld(server.url, timeout=TIMEOUT) as world:
        yield world


@contextmanager
def frozen(server: RedisServer) -> Iterator[None]:
    """The process hangs; its kernel goes on to accept connections and bytes."""
    assert server._process
    os.kill(server._process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server._process.pid, signal.SIGCONT)


async def until_up(world: RedisWorld) -> None:
    await until(world.settlement.up)


async def until_down(world: RedisWorld) -> None:
    await until(lambda: not world.settlement.up())


async def refusal(world: RedisWorld, question: SettleRequest) -> tuple[Unavailable, float]:
    """How the check failed, and after how many seconds."""
    started = time.monotonic()
    with pytest.raises(Unavailable) as refused:
        await world.settlement.settle(question)
    return refused.value, time.monotonic() - started


async def test_a_killed_redis_is_unavailable_at_once_and_its_successor_is_not_believed(
    server: RedisServer, world: RedisWorld
) -> None:
    world.postgres.revoked = {"t:kc:revoked"}
    await settle(world, window(5))
    server.kill()
    lost, _ = await refusal(world, ask())
    await until_down(world)
    _, seconds = await refusal(world, ask())
    assert (lost.dependency, DEPENDENCY_UP.labels("redis")._value.get()) == ("redis", 0)
    assert seconds < TIMEOUT

    server.start()
    await until_up(world)
    assert (await world.settlement.settle(ask(token="revoked"))).outcome is Outcome.REVOKED
    assert (await settle(world, window(5))).outcome is Outcome.OK
    assert world.postgres.questions == [1, 1]

    await world.set_complete(complete=True)
    assert (await settle(world, window(5))).outcome is Outcome.OK
    assert world.postgres.questions == [1, 1]


async def test_a_flushed_redis_is_incomplete(world: RedisWorld) -> None:
    world.postgres.revoked = {"t:kc:revoked"}
    await world.revoke("t:kc:revoked")
    await world.client.flushall()
    assert (await world.settlement.settle(ask(token="revoked"))).outcome is Outcome.REVOKED


async def test_checks_that_wait_for_postgres_are_asked_about_together(world: RedisWorld) -> None:
    await world.set_complete(complete=False)
    answers = await asyncio.gather(*(settle(world, window(50)) for _ in range(60)))
    assert sum(answer.outcome is Outcome.OK for answer in answers) == 50
    assert len(world.postgres.questions) < 5


async def test_a_flushed_script_is_loaded_again(world: RedisWorld) -> None:
    await settle(world, window(5))
    await world.client.script_flush()
    assert (await settle(world, window(5))).remaining == (3,)


async def test_a_hanging_redis_is_unavailable_in_time_and_comes_back(server: RedisServer, world: RedisWorld) -> None:
    tasks = len(asyncio.all_tasks())
    questions = [ask(window(5)) for _ in range(3)]
    with frozen(server):
        for question in questions:
            failure, seconds = await refusal(world, question)
            assert failure.dependency == "redis"
            assert seconds < TIMEOUT + SLACK
        # The last may have ended with the connection, before its own time was over.
        over = time.monotonic() + TIMEOUT
        await until(lambda: time.monotonic() > over)
    await until_up(world)

    # What Redis found in its sockets when it woke up was too late: not charged, not in the ledger.
    assert (await settle(world, window(5))).remaining == (4,)
    assert not {question.event for question in questions} & {event for event, _ in await world.ledger()}
    assert len(asyncio.all_tasks()) == tasks


async def test_what_was_refused_with_a_silent_connection_is_not_taken_when_redis_wakes_in_time_for_it(
    server: RedisServer, world: RedisWorld
) -> None:
    shard, questions = world.settlement._shards[0], [ask(window(5)) for _ in range(3)]
    with frozen(server):
        first = asyncio.create_task(refusal(world, questions[0]))
        await until(lambda: shard._silent > TIMEOUT / 2)
        # These have half of the timeout left when the connection is cut.
        refused = await asyncio.gather(*(refusal(world, question) for question in questions[1:]))
        assert max(seconds for _, seconds in refused) < TIMEOUT
        await first
    await until_up(world)
    assert (await settle(world, window(5))).remaining == (4,)
    assert not {question.event for question in questions} & {event for event, _ in await world.ledger()}


async def test_the_wait_in_the_queue_is_bounded_too(server: RedisServer, world: RedisWorld) -> None:
    with frozen(server):
        started = time.monotonic()
        failures = await asyncio.gather(*(settle(world) for _ in range(500)), return_exceptions=True)
        assert time.monotonic() - started < TIMEOUT + SLACK
    assert all(isinstance(failure, Unavailable) for failure in failures)


async def test_a_peer_that_never_answers_is_unavailable(world: RedisWorld) -> None:
    silent: list[asyncio.StreamWriter] = []
    listener = await asyncio.start_server(lambda _, writer: silent.append(writer), "127.0.0.1", free_port())
    host, port = listener.sockets[0].getsockname()
    other = RedisWorld(f"redis://{host}:{port}/0", timeout=TIMEOUT)
    await other.settlement.start()
    assert not other.settlement.up()
    assert (await refusal(other, ask()))[0].dependency == "redis"

    await other.settlement.stop()
    await other.client.aclose()
    listener.close()
    for writer in silent:
        writer.close()


async def test_a_peer_that_speaks_nonsense_is_unavailable_and_does_not_end_the_attempts() -> None:
    connections: list[asyncio.StreamWriter] = []

    async def answer_ok(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        while await reader.read(1000):
            writer.write(b"+OK\r\n")
        writer.close()

    listener = await asyncio.start_server(answer_ok, "127.0.0.1", free_port())
    host, port = listener.sockets[0].getsockname()
    world = RedisWorld(f"redis://{host}:{port}/0", timeout=TIMEOUT)
    await world.settlement.start()
    assert (await refusal(world, ask()))[0].dependency == "redis"
    await until(lambda: len(connections) > 2)

    await world.settlement.stop()
    await world.client.aclose()
    listener.close()


async def test_redis_may_come_after_us(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    world = RedisWorld(server.url, timeout=TIMEOUT)
    await world.settlement.start()
    assert (await refusal(world, ask()))[0].dependency == "redis"

    server.start()
    try:
        await until_up(world)
        assert (await world.settlement.settle(ANONYMOUS)).outcome is Outcome.OK
    finally:
        await world.settlement.stop()
        await world.client.aclose()
        server.kill()


async def test_a_redis_that_may_evict_revocations_is_refused(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    with Redis.from_url(server.url) as client:
        client.config_set("maxmemory", "100mb")
        client.config_set("maxmemory-policy", "allkeys-lru")
        world = RedisWorld(server.url, timeout=TIMEOUT)
        with caplog.at_level(logging.ERROR):
            await world.settlement.start()
        assert not world.settlement.up()
        assert (await refusal(world, ask()))[0].dependency == "redis"
        assert "noeviction" in caplog.records[0].__dict__["error"]

        client.config_set("maxmemory-policy", "noeviction")
    await until_up(world)
    assert (await world.settlement.settle(ANONYMOUS)).outcome is Outcome.OK
    await world.settlement.stop()
    await world.client.aclose()


async def test_a_connection_closed_while_idle_costs_no_check(world: RedisWorld) -> None:
    await settle(world)
    for _ in range(3):
        own = await world.client.client_id()
        for client in await world.client.client_list(_type="normal"):
            if int(client["id"]) != own:
                await world.client.client_kill_filter(_id=client["id"])
        assert (await settle(world)).outcome is Outcome.OK


async def test_an_error_of_redis_is_unavailable_and_passes(world: RedisWorld) -> None:
    await world.client.set("{tg0}:events", "no stream")
    assert (await refusal(world, ask(window(1))))[0].dependency == "redis"
    await world.client.delete("{tg0}:events")
    await until_up(world)
    assert (await settle(world, window(1))).outcome is Outcome.OK


async def test_a_redis_out_of_memory_lets_nothing_pass(world: RedisWorld) -> None:
    await world.client.config_set("maxmemory", "1")
    assert (await refusal(world, ask(window(1))))[0].dependency == "redis"
    await world.client.config_set("maxmemory", "0")
    await until_up(world)
    assert (await settle(world, window(1))).outcome is Outcome.OK


async def test_refusals_outlast_an_outage(server: RedisServer, world: RedisWorld) -> None:
    server.kill()
    await until_down(world)
    for number in range(300):
        world.settlement.record(b"%d" % number)
    server.start()
    await until_up(world)

    events = [event for event, _ in await world.ledger()]
    while len(events) < 300:
        events = [event for event, _ in await world.ledger()]
    assert events == [b"%d" % number for number in range(300)]
