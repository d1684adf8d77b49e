"""Behind PgBouncer in transaction mode: no session is one's own, and two connections serve everybody."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psycopg
import pytest
from pydantic import SecretStr
from redis import Redis

from ext_authz.db.postgres import listening
from ext_authz.revocation.entry import Kind
from ext_authz.revocation.store import Lookup
from tests import tokens
from tests.e2e.ledger.world import event, process
from tests.e2e.ledger.world import world_of as ledger_of
from tests.e2e.reload.world import Caller, serving
from tests.e2e.revocation.world import World, world_of
from tests.pgbouncer import needs_pgbouncer, pgbouncer
from tests.services import wait_for
from tests.waiting import running, until

pytestmark = needs_pgbouncer

ROW = "INSERT INTO revocations (kind, issuer, value) VALUES ('token', 'demo', %s)"


@pytest.fixture
def pooled_url(database_url: str) -> Iterator[str]:
    with pgbouncer(database_url) as url:
        yield url


@pytest.fixture
async def world(pooled_url: str, redis_url: str) -> AsyncIterator[World]:
    async with world_of(pooled_url, redis_url) as world:
        yield world


async def test_lookups_work_with_any_session_of_the_pooler(world: World) -> None:
    """With statements prepared in sessions that are somebody else's a moment later, one in fifteen failed."""
    question: Lookup = (("t:demo:jti", "", "", "", ""), 0)

    async def ask() -> list[list[Kind | None]]:
        return [await world.store.revoked([question]) for _ in range(25)]

    answers = await asyncio.gather(*(ask() for _ in range(20)))
    assert answers == [[[None]] * 25] * 20


async def test_a_row_is_in_force_by_polling_alone(world: World, caplog: pytest.LogCaptureFixture) -> None:
    async with running(mirror := world.mirror(poll=1.0)):
        await mirror.synced.wait()
        for name in ("one", "two", "three"):
            await world.sql(ROW, name)
            await until(lambda name=name: world.held(f"t:demo:{name}"))  # type: ignore[misc]
    assert caplog.messages.count("no notifications from postgres through a pooler: polling") == 1


async def test_a_row_is_in_force_on_the_notification_over_the_direct_url(world: World, database_url: str) -> None:
    async with running(mirror := world.mirror(poll=60, direct_url=database_url)):
        await mirror.synced.wait()
        await world.sql(ROW, "by-hand")
        await until(lambda: world.held("t:demo:by-hand"))


@pytest.mark.parametrize("mode", ["transaction", "session"])
async def test_a_pooler_is_never_asked_to_listen(
    database_url: str, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It would take the LISTEN and give it to the next client of that connection."""
    caplog.set_level(logging.WARNING)
    with pgbouncer(database_url, mode) as url:
        async with listening(SecretStr(url), "somewhere") as notifications:

            async def noticed() -> bool:
                return "no notifications from postgres through a pooler: polling" in caplog.messages

            await until(noticed)
            assert not notifications.is_set()


async def test_the_ledger_is_exact_though_workers_are_killed(pooled_url: str, redis_url: str) -> None:
    """Four of them at a pooler with two connections."""
    async with ledger_of(pooled_url, redis_url) as ledger:
        events = [event() for _ in range(10_000)]
        await ledger.record(*events)
        for name in ("a", "b", "a"):
            before = await ledger.moved()
            with process(ledger, name) as worker:

                async def under_way(before: int = before) -> bool:
                    return await ledger.moved() >= before + 1000

                await until(under_way)
                worker.kill()
        async with running(*(ledger.worker(name, adopt=0.2) for name in "abcd")):
            await until(ledger.drained, seconds=60)
        assert (await ledger.moved(), await ledger.rejected()) == (10_000, [])
        stored = {str(row[0]) for row in await ledger.sql("SELECT decision_id FROM usage_events")}
        assert stored == {one.decision_id for one in events}


def test_checks_are_allowed_while_redis_is_filled_again(tmp_path: Path, redis_url: str, pooled_url: str) -> None:
    """Every check asks Postgres meanwhile, through two connections that the mirror wants too."""
    with serving(tmp_path, redis_url, pooled_url, server="grpcio") as server, Redis.from_url(redis_url) as redis:
        with Caller(server, tokens.mint(now=time.time())) as caller:
            for _ in range(5):
                before = caller.codes.total()
                redis.flushall()
                wait_for(lambda before=before: caller.codes.total() > before + 100)
        assert (set(caller.codes), caller.failed) == ({0}, [])
        token = tokens.mint({"jti": "stolen"}, now=time.time())
        assert server.check(token).status.code == 0
        with psycopg.connect(pooled_url, autocommit=True, prepare_threshold=None) as operator:
            operator.execute("INSERT INTO revocations (kind, issuer, value) VALUES ('token', 'i0', 'stolen')")
        wait_for(lambda: server.check(token).denied_response.status.code == 401)
