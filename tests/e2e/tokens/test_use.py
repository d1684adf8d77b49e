"""What the ledger says of API tokens, and who is told that they expire."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from ext_authz.tokens.model import Issued
from ext_authz.tokens.reminders import Reminders
from tests.e2e.tokens.world import ALICE, DAY, ISS, World, claims_of, policy_of, wanted, world_of
from tests.fakes import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(time.time())


@pytest.fixture
async def world(database_url: str, redis_url: str, tmp_path: Path, clock: FakeClock) -> AsyncIterator[World]:
    async with world_of(database_url, redis_url, policy_of(tmp_path), clock=clock) as world:
        assert ALICE.identity is not None
        await world.service.signed_in(ALICE.identity)
        yield world


class Receiver:
    """A webhook."""

    def __init__(self) -> None:
        self.status = 204
        self.got: list[dict[str, object]] = []

    def client(self) -> httpx.AsyncClient:
        def answer(request: httpx.Request) -> httpx.Response:
            assert request.headers["content-type"] == "application/cloudevents+json"
            self.got.append(json.loads(request.content))
            return httpx.Response(self.status)

        return httpx.AsyncClient(transport=httpx.MockTransport(answer))


async def use(world: World, issued: Issued, at: float, address: str) -> None:
    """As the usage worker stores it."""
    claims = claims_of(issued.token)
    facts = json.dumps({"issuer_name": "kc", "session": claims["sid"], "source": address})
    await world.sql(
        "INSERT INTO usage_events (decision_id, occurred_at, reason, code, issuer, subject, client, token_id, route,"
        " model, model_version, method, path, policy, degraded, facts)"
        " VALUES (gen_random_uuid(), %s, 'allowed', '', %s, %s, %s, %s, 'r', 'm', '', 'POST', '/', 'p', '', %s)",
        *(datetime.fromtimestamp(at, UTC), ISS, claims["sub"], claims["azp"], claims["jti"], facts),
    )


async def test_last_use_is_that_of_any_token_of_the_grant(world: World, clock: FakeClock) -> None:
    first = await world.service.create(ALICE, wanted())
    assert first.grant.last_used_at is None
    second = await world.service.renew(ALICE, first.grant.id, grace=DAY)
    await use(world, second, clock.now() + 30, "192.0.2.2")
    await use(world, first, clock.now(), "192.0.2.1")
    (grant,) = (await world.service.list(ALICE)).grants
    assert grant.last_used_at == datetime.fromtimestamp(clock.now() + 30, UTC)
    assert grant.last_used_from == "192.0.2.2"
    # What was forgotten of tokens in general is not forgotten of these.
    await world.sql("DELETE FROM tokens_seen")
    assert (await world.service.get(ALICE, grant.id)).last_used_at == grant.last_used_at


async def test_who_uses_a_token_is_told_twice_before_it_expires(world: World, clock: FakeClock) -> None:
    issued = await world.service.create(ALICE, wanted("used", lifetime=30 * DAY))
    await world.service.create(ALICE, wanted("unused", lifetime=30 * DAY))
    short = await world.service.create(ALICE, wanted("short", lifetime=5 * DAY))
    receiver = Receiver()
    source, url = "https://models.example/tollgate", "https://hook.example/x"
    replicas = [Reminders(world.pool, clock, source=source, url=url) for _ in range(2)]

    async def told() -> int:
        async with receiver.client() as client:
            return sum([await replica.remind(client) for replica in replicas])

    await use(world, short, clock.now(), "192.0.2.1")
    for days, status, expected in ((4, 204, 0), (12, 503, 0), (0, 204, 1), (0, 204, 0), (10, 204, 0), (2, 204, 1)):
        clock.advance(timedelta(days=days).total_seconds())
        if days == 12:
            assert await told() == 0  # not used yet
            await use(world, issued, clock.now(), "192.0.2.1")
        receiver.status = status
        assert await told() == expected, days
    event = receiver.got[-1]
    assert (event["type"], event["subject"]) == ("tollgate.token.expires_soon", f"grant:{issued.grant.id}")
    assert isinstance(event["data"], dict)
    assert (event["data"]["name"], event["data"]["last_used_from"]) == ("used", "192.0.2.1")
    assert issued.token not in json.dumps(receiver.got)
    renewed = await world.service.renew(ALICE, issued.grant.id, grace=timedelta())
    await use(world, renewed, clock.now(), "192.0.2.1")
    assert await told() == 0
