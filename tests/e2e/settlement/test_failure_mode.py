"""A real Redis dies: what the failure policy lets go on, for how long, and that the ledger has all of it afterwards."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator

import pytest
from msgspec.structs import replace

from ext_authz.clock import SystemClock
from ext_authz.errors import Unavailable
from ext_authz.policy.model import Failure, OnFailure
from ext_authz.settlement import pipeline
from ext_authz.settlement.model import Outcome, SettleRequest, SettleResult
from tests.e2e.settlement.redis_world import RedisWorld
from tests.services import RedisServer
from tests.unit.settlement.world import ask, window
from tests.waiting import until

LOCAL = Failure(redis=OnFailure.LOCAL, grace=60)
BRIEF = Failure(redis=OnFailure.LOCAL, grace=3)
ALLOW = Failure(redis=OnFailure.ALLOW)


@pytest.fixture
async def world(server: RedisServer) -> AsyncIterator[RedisWorld]:
    async with RedisWorld(server.url, timeout=0.4) as world:
        yield world


async def settled(world: RedisWorld, questions: list[SettleRequest]) -> list[SettleResult]:
    return [await world.settlement.settle(question) for question in questions]


async def until_back(server: RedisServer, world: RedisWorld) -> None:
    server.start()
    await until(world.settlement.up)
    await world.set_complete(complete=True)


async def test_local_holds_the_limit_keeps_the_revoked_out_and_the_ledger_gets_everything_once(
    server: RedisServer, world: RedisWorld
) -> None:
    world.postgres.revoked = {"t:kc:revoked"}
    before = [ask(window(5)) for _ in range(3)]
    during = [ask(window(5), failure=LOCAL) for _ in range(8)]
    revoked = [ask(window(5), token="revoked", failure=LOCAL) for _ in range(3)]
    await settled(world, before)
    server.kill()
    outcomes = [answer.outcome for answer in await settled(world, during)]
    assert outcomes == [Outcome.OK] * 5 + [Outcome.LIMITED] * 3
    assert {answer.outcome for answer in await settled(world, revoked)} == {Outcome.REVOKED}

    await until_back(server, world)
    ledger = Counter((json.loads(event)["n"], outcome) for event, outcome in await world.ledger())
    asked = [*zip(before, [Outcome.OK] * 3, strict=True), *zip(during, outcomes, strict=True)]
    asked += [(question, Outcome.REVOKED) for question in revoked]
    assert ledger == Counter((json.loads(question.event)["n"], outcome) for question, outcome in asked)
    marked = [json.loads(event).get("degraded") for event, _ in await world.ledger()]
    assert Counter(marked) == {None: 3, "redis": 11}


async def test_local_ends_with_its_grace_and_begins_anew_after_redis_was_back(
    server: RedisServer, world: RedisWorld
) -> None:
    await settled(world, [ask()])
    server.kill()
    await until(lambda: not world.settlement.up())
    assert (await settled(world, [ask(failure=BRIEF)]))[0].degraded == "redis"
    await until(lambda: SystemClock().monotonic() - world.settlement.seen_at() >= BRIEF.grace)
    with pytest.raises(Unavailable, match="grace of 3 s is over"):
        await settled(world, [ask(failure=BRIEF)])
    assert (await settled(world, [ask(failure=LOCAL)]))[0].degraded == "redis"

    await until_back(server, world)
    assert (await settled(world, [ask(failure=BRIEF)]))[0].degraded == ""


async def test_a_token_that_redis_refused_shortly_before_is_known_without_it(
    server: RedisServer, world: RedisWorld
) -> None:
    bearing = Failure(redis=OnFailure.LOCAL, postgres=OnFailure.LOCAL)
    await world.revoke("s:kc:session")
    assert (await settled(world, [ask(failure=bearing)]))[0].outcome is Outcome.REVOKED
    world.postgres.failure = Unavailable("postgres", "connection refused")
    world.known.at = SystemClock().monotonic()
    server.kill()
    answers = await settled(world, [ask(failure=bearing), ask(token="another", failure=bearing)])
    assert [answer.outcome for answer in answers] == [Outcome.REVOKED, Outcome.OK]


async def test_a_running_redis_is_seen_all_the_time(world: RedisWorld) -> None:
    seen_at = world.settlement.seen_at()
    async with asyncio.timeout(5):
        while world.settlement.seen_at() == seen_at:  # noqa: ASYNC110 - a heartbeat sets no event
            await asyncio.sleep(0.05)


async def test_deny_stays_deny_for_routes_that_say_so(server: RedisServer, world: RedisWorld) -> None:
    server.kill()
    with pytest.raises(Unavailable):
        await settled(world, [ask()])
    assert (await settled(world, [ask(failure=ALLOW)]))[0].outcome is Outcome.OK


async def test_where_no_event_can_wait_any_more_only_allow_goes_on(
    server: RedisServer, world: RedisWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "MAX_QUEUED", 2)
    server.kill()
    await until(lambda: not world.settlement.up())
    await settled(world, [ask(failure=LOCAL), ask(failure=LOCAL)])
    with pytest.raises(Unavailable) as refused:
        await settled(world, [ask(failure=LOCAL)])
    assert refused.value.dependency == "ledger"
    assert (await settled(world, [ask(failure=ALLOW)]))[0].outcome is Outcome.OK

    await until_back(server, world)
    assert len(await world.ledger()) == 2


async def test_a_full_ledger_is_no_outage_that_a_policy_could_bear(world: RedisWorld) -> None:
    await world.fill_ledger(1000)
    with pytest.raises(Unavailable) as refused:
        await settled(world, [ask(failure=ALLOW)])
    assert refused.value.dependency == "ledger"


async def test_an_incomplete_redis_without_postgres_goes_by_what_the_worker_knows(world: RedisWorld) -> None:
    await world.set_complete(complete=False)
    world.postgres.failure = Unavailable("postgres", "connection refused")
    failure = Failure(postgres=OnFailure.LOCAL)
    with pytest.raises(Unavailable) as refused:
        await settled(world, [ask(failure=failure)])
    assert refused.value.dependency == "postgres"

    world.known.at = SystemClock().monotonic()
    world.known.revoked = {"t:kc:revoked"}
    good, bad = ask(window(1), failure=failure), ask(window(1), token="revoked", failure=failure)
    answers = await settled(world, [bad, good, replace(good, event=b'{"n":-1}')])
    assert [answer.outcome for answer in answers] == [Outcome.REVOKED, Outcome.OK, Outcome.LIMITED]
    assert {answer.degraded for answer in answers} == {"postgres"}
    events = {json.loads(event)["degraded"] for event, _ in await world.ledger()}
    assert events == {"postgres"}


async def test_a_stop_logs_how_many_decisions_the_ledger_will_lack(
    server: RedisServer, world: RedisWorld, caplog: pytest.LogCaptureFixture
) -> None:
    server.kill()
    await until(lambda: not world.settlement.up())
    await settled(world, [ask(failure=LOCAL) for _ in range(3)])
    await world.settlement.stop()
    (said,) = [record for record in caplog.records if "the ledger lacks them" in record.message]
    assert said.__dict__["detail"] == "3 decisions"
