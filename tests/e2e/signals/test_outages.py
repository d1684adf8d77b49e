"""With Postgres or Redis away no signal is confirmed, and what was not confirmed is not lost where it can be kept."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.e2e.signals.test_receivers import ensure_refused
from tests.e2e.signals.world import Receiving, receiving
from tests.postgres import PostgresServer, running_postgres
from tests.services import RedisServer, running_redis
from tests.signals import SID, event, logout_token
from tests.waiting import running, until


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    """To kill."""
    with running_redis(tmp_path) as server:
        yield server


@pytest.fixture
def postgres() -> Iterator[PostgresServer]:
    """To kill."""
    with running_postgres() as server:
        yield server


@pytest.fixture
async def console(postgres: PostgresServer, redis: RedisServer) -> AsyncIterator[Receiving]:
    async with receiving(postgres.url, redis.url) as console:
        yield console


async def test_a_signal_is_confirmed_by_both_stores_only(
    console: Receiving, postgres: PostgresServer, redis: RedisServer
) -> None:
    await console.stream_is_pushed()
    pushed, logged_out = event(), logout_token({"sid": "another"})
    redis.kill()
    said = ensure_refused(await console.log_out(logged_out), 503)
    assert said.startswith("redis does not answer; what postgres holds comes into force")
    assert (await console.push(pushed)).status_code == 503
    assert sorted(entry.id for entry in await console.world.store.entries()) == ["s:ml:another", f"s:ml:{SID}"]
    redis.start()
    # Whoever repeats it is told the truth; what Keycloak does not repeat, the mirror copies.
    assert (await console.push(pushed)).status_code == 202
    assert await console.world.held(f"s:ml:{SID}") == "1"
    async with running(console.world.mirror()):
        await until(lambda: console.world.held("s:ml:another"))
    assert len(await console.audit()) == 2
    postgres.kill()
    for answer in (await console.log_out(logout_token()), await console.push(event())):
        assert ensure_refused(answer, 503).startswith("postgres does not answer")
    postgres.start()
    assert await console.revoked() == ["s:ml:another", f"s:ml:{SID}"]


async def test_a_logout_that_was_not_confirmed_may_be_repeated_until_it_is(
    console: Receiving, redis: RedisServer
) -> None:
    token = logout_token()
    redis.kill()
    for _ in range(2):
        ensure_refused(await console.log_out(token), 503)
    redis.start()
    assert (await console.log_out(token)).status_code == 200
    assert await console.world.held(f"s:ml:{SID}") == "1"
    assert "received before" in ensure_refused(await console.log_out(token))
    assert len(await console.audit()) == 1
