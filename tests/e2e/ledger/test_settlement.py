"""A usage worker that is away, slow and restarted while Envoy works: what is lost is listed, and nothing is doubled."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path
from uuid import UUID

import httpx
import pytest
from pydantic import SecretStr

from ext_authz.db.migrate import migrate
from ext_authz.db.postgres import Connection, connect
from ext_authz.ledger.access_log import AccessLog
from ext_authz.ledger.metrics import LEDGER_UNDECIDED, LEDGER_UNSETTLED
from ext_authz.ledger.reconcile import GRACE, Reconciler, count
from ext_authz.render.endpoints import LOOPBACK, Address, Endpoints
from ext_authz.settings import load_settings
from ext_authz.tls import TlsSettings
from tests.e2e.ledger.test_billable import EVENT
from tests.e2e.render.test_local_replies import INFER
from tests.e2e.render.world import Authorizer, Model, running_front, serving
from tests.fakes import FakeClock
from tests.services import free_port
from tests.unit.render.policies import EVERYDAY, of_kinds
from tests.waiting import running, until

CALLS = 60
"""Of each part of the load."""
UNDECIDED = """
INSERT INTO call_outcomes (decision_id, status, flags, details, duration_ms, bytes_in, bytes_out, upstream,
    upstream_address, received_at)
VALUES (%s, 200, '', '', 1, 1, 1, '', '', now() - interval '5 minutes')
"""


class Door:
    def __init__(self, endpoints: Endpoints) -> None:
        self.url = f"http://{LOOPBACK}:{endpoints.listen.port}{INFER}"
        assert isinstance(endpoints.usage_worker, Address)
        self.log = f"{LOOPBACK}:{endpoints.usage_worker.port}"

    async def load(self) -> set[UUID]:
        """The decisions of calls that were answered."""
        async with httpx.AsyncClient() as client:
            answers = [await client.post(self.url, content=b"{}") for _ in range(CALLS)]
        assert {answer.status_code for answer in answers} == {200}, "the door does not wait for a log"
        return {UUID(answer.headers["x-decision-id"]) for answer in answers}

    @asynccontextmanager
    async def worker(self, url: str) -> AsyncIterator[AccessLog]:
        log = AccessLog(SecretStr(url), batch=100)
        await log.listen(self.log, load_settings(TlsSettings, {}))
        async with running(log):
            yield log


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    policy, model = of_kinds(*EVERYDAY), Model("stable")
    with ExitStack() as stack:
        authorizer = stack.enter_context(serving(Authorizer(policy)))
        stack.enter_context(model.running())
        endpoints = Endpoints(
            listen=Address(LOOPBACK, free_port()),
            authorizer=Address(LOOPBACK, authorizer),
            usage_worker=Address(LOOPBACK, free_port()),
            triton=model.place,
            access_log=str(tmp_path / "access.log"),
        )
        stack.enter_context(running_front("envoy", policy, endpoints, tmp_path))
        yield Door(endpoints)


async def settled(connection: Connection) -> set[UUID]:
    cursor = await connection.execute("SELECT decision_id FROM call_outcomes")
    rows = [one for (one,) in await cursor.fetchall()]
    assert len(rows) == len(set(rows))
    return set(rows)


async def test_what_is_lost_while_the_worker_is_away_slow_or_restarted_is_exactly_what_is_listed(
    door: Door, database_url: str
) -> None:
    await migrate(database_url)
    async with AsyncExitStack() as stack:
        connection = await stack.enter_async_context(await connect(database_url))
        away = await door.load()

        async with door.worker(database_url), await connect(database_url) as other, other.transaction():
            await other.execute("LOCK TABLE call_outcomes IN ACCESS EXCLUSIVE MODE")
            slow = await door.load()
        async with door.worker(database_url):
            restarted = await door.load()
            while not (restarted & await settled(connection)):  # Envoy connects again after a while
                restarted |= await door.load()
            last = await door.load()
            await until(lambda: _has(connection, last))
        decisions, found = away | slow | restarted | last, await settled(connection)
        for one in decisions:
            await connection.execute(EVENT, (one, 30, "allowed", INFER))
        await connection.execute("UPDATE call_outcomes SET received_at = now() - interval '30 minutes'")

        assert found <= decisions
        assert last <= found
        cursor = await connection.execute(
            "SELECT outcome, count(*)::int, sum(requests)::int FROM billable GROUP BY 1 ORDER BY 1"
        )
        lost = len(decisions - found)
        expected = [("served", len(found), len(found)), ("unsettled", lost, 0)]
        assert await cursor.fetchall() == [row for row in expected if row[1]]
        cursor = await connection.execute("SELECT now() - interval '1 hour', now()")
        assert await count(connection, *(await cursor.fetchall())[0]) == (lost, 0)


async def _has(connection: Connection, decisions: set[UUID]) -> bool:
    return decisions <= await settled(connection)


async def test_the_worker_counts_both_kinds_for_alerts(database_url: str) -> None:
    await migrate(database_url)
    async with await connect(database_url) as connection:
        for name in ("0001", "0002"):
            await connection.execute(EVENT, (UUID(int=int(name)), 5, "allowed", INFER))
        await connection.execute(UNDECIDED, (UUID(int=7),))
        ((now,),) = await (await connection.execute("SELECT extract(epoch FROM now())::float8")).fetchall()
    async with running(Reconciler(SecretStr(database_url), FakeClock(now + GRACE.total_seconds()))):
        await until(lambda: LEDGER_UNSETTLED._value.get() == 2 and LEDGER_UNDECIDED._value.get() == 1)
