"""Many checks at once, from one process and from several: exact, shared calls, nobody spoils another's check."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator

import pytest

from ext_authz.db import redis_keys
from ext_authz.observability.metrics import LEDGER_DROPPED
from ext_authz.settlement.connection import Link
from ext_authz.settlement.model import Outcome, SettleRequest, SettleResult
from ext_authz.settlement.pipeline import MAX_QUEUED_REFUSALS
from tests.e2e.settlement.redis_world import RedisWorld
from tests.unit.settlement.world import ANONYMOUS, ask, gcra, settle, sliding, window


@pytest.fixture
async def world(redis_url: str) -> AsyncIterator[RedisWorld]:
    async with RedisWorld(redis_url, ledger_max=100_000) as world:
        yield world


async def calls(world: RedisWorld) -> int:
    """How often the script has run."""
    statistics = await world.client.info("commandstats")
    count: int = statistics.get("cmdstat_evalsha", {"calls": 0})["calls"]
    return count


async def test_concurrent_checks_share_calls_and_stay_exact(world: RedisWorld) -> None:
    before = await calls(world)
    answers = await asyncio.gather(*(settle(world, window(100), gcra(10, burst=200)) for _ in range(300)))

    assert sum(answer.outcome is Outcome.OK for answer in answers) == 100
    assert sorted(answer.remaining[0] for answer in answers) == [0] * 201 + list(range(1, 100))
    assert await calls(world) - before == 3  # of 128 checks each
    assert len(await world.ledger()) == 300


async def test_several_processes_never_exceed_a_limit(world: RedisWorld) -> None:
    command = (sys.executable, "-m", "tests.e2e.settlement.hammer", world.url, "500", "700")
    processes = [await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE) for _ in range(4)]
    await world.client.rpush("go", *range(4))
    passed = [int((await process.communicate())[0]) for process in processes]

    assert sum(passed) == 700
    outcomes = [outcome for _, outcome in await world.ledger()]
    assert (outcomes.count(Outcome.OK), outcomes.count(Outcome.LIMITED)) == (700, 1300)


async def test_by_redis_clock_no_window_holds_more_than_it_may(world: RedisWorld) -> None:
    started = asyncio.get_running_loop().time()
    passed: list[int] = []
    quota_requests = (gcra(50, burst=5, window_ms=1000), window(6, window_ms=100), sliding(8, window_ms=130))
    while asyncio.get_running_loop().time() < started + 0.8:
        answer = await settle(world, *quota_requests)
        passed += [answer.at_ms] * (answer.outcome is Outcome.OK)

    assert len(passed) >= 5 + 50 * 0.7
    for first in passed:
        assert sum(first <= at < first + 100 for at in passed) <= 5 + 5
        assert sum(first <= at < first + 130 for at in passed) <= 8
    while passed:  # windows, each opened by its first hit
        inside = [at for at in passed if at < passed[0] + 100]
        assert len(inside) <= 6
        passed = passed[len(inside) :]


async def test_a_cancelled_caller_spoils_nothing_and_takes_nothing(world: RedisWorld) -> None:
    waiting = [asyncio.create_task(settle(world, window(100))) for _ in range(20)]
    await asyncio.sleep(0)  # all are in the queue
    for task in waiting[::2]:
        task.cancel()
    answers = await asyncio.gather(*waiting, return_exceptions=True)

    assert [type(answer) for answer in answers] == [asyncio.CancelledError, SettleResult] * 10
    assert (await settle(world, window(100))).remaining == (89,)


async def test_a_check_that_cannot_be_written_fails_alone(world: RedisWorld) -> None:
    spoiled = SettleRequest(("t:kc:\ud800", "", "", "", ""), 0, (), b"{}")
    answers = await asyncio.gather(*map(world.settlement.settle, (ask(), spoiled, ask())), return_exceptions=True)
    assert [type(answer) for answer in answers] == [SettleResult, UnicodeEncodeError, SettleResult]


async def test_refusals_reach_the_ledger_by_themselves(world: RedisWorld) -> None:
    world.settlement.record(b"alone")
    assert await world.client.xread({redis_keys.events(): "0"}, block=500)  # sooner than the heartbeat


async def test_the_queue_of_refusals_is_bounded_and_counted(world: RedisWorld) -> None:
    before = LEDGER_DROPPED._value.get()
    for _ in range(MAX_QUEUED_REFUSALS + 7):
        world.settlement.record(b"{}")
    assert LEDGER_DROPPED._value.get() - before == 7


async def test_refusals_that_a_nearly_full_ledger_does_not_take_are_counted(redis_url: str) -> None:
    async with RedisWorld(redis_url) as world:
        await world.fill_ledger(899)
        before = LEDGER_DROPPED._value.get()
        for _ in range(3):
            world.settlement.record(b"{}")
        assert len(await world.ledger()) == 900
        assert LEDGER_DROPPED._value.get() - before == 2


async def test_stop_flushes_what_is_queued(world: RedisWorld) -> None:
    check = asyncio.create_task(world.settlement.settle(ANONYMOUS))
    await asyncio.sleep(0)
    for number in range(1000):
        world.settlement.record(b"%d" % number)
    await world.settlement.stop()

    assert (await check).outcome is Outcome.OK
    assert await world.client.xlen(redis_keys.events()) == 1001
    assert not world.settlement.up()


async def test_a_clock_that_was_set_costs_no_check(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    set_clock, errors = Link.set_clock, [-3_600_000]  # at first Redis seems to be an hour behind

    def set_wrong_once(link: Link, redis_ms: int, asked_at: float) -> None:
        set_clock(link, redis_ms + (errors.pop() if errors else 0), asked_at)

    monkeypatch.setattr(Link, "set_clock", set_wrong_once)
    async with RedisWorld(redis_url) as world:
        assert (await settle(world, window(5))).remaining == (4,)
        assert (await settle(world, window(5))).remaining == (3,)


async def test_more_keys_than_lua_can_unpack(world: RedisWorld) -> None:
    quota_requests = [tuple(window(2, key=f"{check}:{number}") for number in range(60)) for check in range(128)]
    for left in (1, 0):
        answers = await asyncio.gather(*(settle(world, *each) for each in quota_requests))
        assert all(answer.remaining == (left,) * 60 for answer in answers)


async def test_a_limit_of_nothing_lets_nothing_pass(world: RedisWorld) -> None:
    for take in (window(0), gcra(0, burst=5)):
        answer = await settle(world, take)
        assert (answer.outcome, answer.remaining, answer.retry_after_ms) == (Outcome.LIMITED, (0,), 0)
