"""A worker's own knowledge of what is revoked, over a real Postgres that comes and goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from pydantic import SecretStr

from ext_authz.clock import SystemClock
from ext_authz.db.migrate import migrate
from ext_authz.revocation import known
from ext_authz.revocation.entry import Kind
from ext_authz.revocation.known import KnownRevocations
from tests.postgres import PostgresServer, running_postgres

IDS = ("t:kc:token", "s:kc:session", "u:kc:alice", "c:kc:app", "i:kc:")
NOW = int(datetime.now(UTC).timestamp())


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with running_postgres() as server:
        asyncio.run(migrate(server.url))
        yield server


@asynccontextmanager
async def following(postgres: PostgresServer) -> AsyncIterator[KnownRevocations]:
    worker = KnownRevocations(SecretStr(postgres.url), SystemClock(), poll=0.05)
    worker.start()
    worker.start()
    try:
        yield worker
    finally:
        await worker.stop()


@pytest.fixture
async def worker(postgres: PostgresServer) -> AsyncIterator[KnownRevocations]:
    """It knows that nothing is revoked."""
    await sql(postgres, "UPDATE revocations SET lifted_at = now() WHERE lifted_at IS NULL")
    async with following(postgres) as worker:
        await until_answers(worker, revoked=False)
        yield worker


async def sql(postgres: PostgresServer, query: str) -> None:
    async with await psycopg.AsyncConnection.connect(postgres.url, autocommit=True) as connection:
        await connection.execute(query.encode())


async def revoke(postgres: PostgresServer, kind: str, value: str, not_before: datetime | None = None) -> None:
    moment = f"'{not_before.isoformat()}'" if not_before else "NULL"
    await sql(
        postgres,
        f"INSERT INTO revocations (kind, issuer, value, not_before) VALUES ('{kind}', 'kc', '{value}', {moment})"
        " ON CONFLICT (id) DO UPDATE SET not_before = excluded.not_before, lifted_at = NULL,"
        " lifted_by = NULL",
    )


async def until_answers(worker: KnownRevocations, *, revoked: bool, issued_at: int = NOW) -> None:
    """And is up."""
    async with asyncio.timeout(20):
        while worker.lost() != {"postgres": None} or bool(worker.revokes(IDS, issued_at)) is not revoked:  # noqa: ASYNC110 - nobody could set an event
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(("kind", "value"), [("token", "token"), ("session", "session")])
async def test_a_token_or_session_is_revoked_until_it_is_lifted(
    postgres: PostgresServer, worker: KnownRevocations, kind: str, value: str
) -> None:
    await revoke(postgres, kind, value)
    await until_answers(worker, revoked=True)
    await sql(postgres, "UPDATE revocations SET lifted_at = now() WHERE lifted_at IS NULL")
    await until_answers(worker, revoked=False)


@pytest.mark.parametrize(("kind", "value"), [("user", "alice"), ("client", "app"), ("issuer", "")])
async def test_what_was_issued_up_to_the_moment_is_revoked_and_nothing_later(
    postgres: PostgresServer, worker: KnownRevocations, kind: str, value: str
) -> None:
    await revoke(postgres, kind, value, datetime.fromtimestamp(NOW, UTC))
    await until_answers(worker, revoked=True)
    assert worker.revokes(IDS, NOW - 1) is Kind[kind.upper()]
    assert not worker.revokes(IDS, NOW + 1)
    assert not worker.revokes(("t:kc:x", "", "u:kc:bob", "", ""), NOW)


async def test_while_postgres_is_away_what_is_known_stays_and_its_age_grows(
    postgres: PostgresServer, worker: KnownRevocations
) -> None:
    await revoke(postgres, "token", "token")
    await until_answers(worker, revoked=True)
    postgres.kill()
    async with asyncio.timeout(20):
        while (since := worker.lost()["postgres"]) is None:  # noqa: ASYNC110 - nobody could set an event
            await asyncio.sleep(0.01)
    assert since == worker.whole_at() < SystemClock().monotonic()
    assert worker.revokes(IDS, NOW)

    postgres.start()
    await until_answers(worker, revoked=True)
    assert worker.whole_at() > since


async def test_every_row_is_read_again_now_and_then(
    postgres: PostgresServer, worker: KnownRevocations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known, "ANEW", 0.0)
    worker._values["t:kc:token"] = 1  # as if its expiry had passed: no row says so
    await until_answers(worker, revoked=False)


async def test_a_token_that_redis_refused_is_known_until_postgres_was_asked_again(
    postgres: PostgresServer, worker: KnownRevocations
) -> None:
    worker.saw_revoked(IDS, Kind.SESSION)
    assert worker.revokes(IDS, NOW) is Kind.SESSION
    await until_answers(worker, revoked=False)


async def test_who_follows_nobody_says_nothing_about_postgres(postgres: PostgresServer) -> None:
    worker = KnownRevocations(SecretStr(postgres.url), SystemClock(), poll=1)
    assert worker.lost() == {}
    await worker.stop()
    assert worker.whole_at() < SystemClock().monotonic() - timedelta(days=1).total_seconds()
