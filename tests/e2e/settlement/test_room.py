"""A Redis that fills up: logged well before, and a revocation finds room when all checks are refused."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

import pytest

from ext_authz.db import redis_keys
from ext_authz.errors import Unavailable
from ext_authz.observability.metrics import LEDGER_FILLED, REDIS_MEMORY_USED
from ext_authz.settlement.model import Outcome
from tests.e2e.settlement.redis_world import RedisWorld
from tests.services import RedisServer
from tests.unit.settlement.world import ask, settle, window
from tests.waiting import until

BOUND = 100


@pytest.fixture
async def world(server: RedisServer) -> AsyncIterator[RedisWorld]:
    async with RedisWorld(server.url, ledger_max=BOUND) as world:
        await world.client.setrange("something", 20_000_000, "x")  # what connections need is little beside it
        yield world


def alarms(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [str(line.__dict__.get("error", "")) for line in caplog.records if "room" in line.getMessage()]


async def fill_memory(world: RedisWorld, share: float) -> None:
    used = (await world.client.info("memory"))["used_memory"]
    await world.client.config_set("maxmemory", int(used / share))


async def test_a_filling_ledger_is_logged_at_50_and_80_per_cent(
    world: RedisWorld, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        await world.fill_ledger(55)
        await until(lambda: len(alarms(caplog)) == 1)
        await world.fill_ledger(85)
        await until(lambda: len(alarms(caplog)) == 2)
    assert ["50%" in alarms(caplog)[0], "80%" in alarms(caplog)[1]] == [True, True]
    assert LEDGER_FILLED.labels(0)._value.get() == 0.85
    assert (await settle(world, window(9))).outcome is Outcome.OK


async def test_low_memory_is_logged_and_the_rest_is_kept_for_revocations(
    world: RedisWorld, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        await fill_memory(world, 0.85)
        await until(lambda: len(alarms(caplog)) == 1)
        assert "80% of maxmemory" in alarms(caplog)[0]
        assert (await settle(world, window(9))).outcome is Outcome.OK
        await fill_memory(world, 0.97)
        await until(lambda: world.settlement._shards[0].room.ledger_max == 0)
    assert REDIS_MEMORY_USED.labels(0)._value.get() >= 0.95
    with pytest.raises(Unavailable, match="kept for revocations") as refused:
        await world.settlement.settle(ask(window(9)))
    assert refused.value.dependency == "ledger"
    await world.client.set(redis_keys.revocation("t:kc:revoked"), 1)

    await world.client.config_set("maxmemory", 0)
    await until(lambda: world.settlement._shards[0].room.ledger_max == BOUND)
    assert (await settle(world, window(9))).outcome is Outcome.OK
    assert (await world.settlement.settle(ask(token="revoked"))).outcome is Outcome.REVOKED
