"""What the workers of one machine know of the revocations, over a real Postgres that comes and goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from pydantic import SecretStr

from ext_authz.clock import SystemClock
from ext_authz.db.migrate import migrate
from ext_authz.revocation import feed, keeper, known
from ext_authz.revocation.entry import Kind
from ext_authz.revocation.keeper import Keeper
from ext_authz.revocation.known import KnownRevocations
from tests.postgres import PostgresServer, running_postgres
from tests.waiting import until

IDS = ("t:kc:token", "s:kc:session", "u:kc:alice", "c:kc:app", "i:kc:")
NOW = int(datetime.now(UTC).timestamp())
POLL = 0.05


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with running_postgres() as server:
        asyncio.run(migrate(server.url))
        yield server


@pytest.fixture(autouse=True)
def _machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The directory that the processes of one `serve` share."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))


@asynccontextmanager
async def keeping(postgres: PostgresServer) -> AsyncIterator[None]:
    """Of all that earlier tests revoked nothing is in force."""
    await sql(postgres, "UPDATE revocations SET lifted_at = now() WHERE issuer = 'kc' AND lifted_at IS NULL")
    stop = asyncio.Event()
    task = asyncio.create_task(Keeper(SecretStr(postgres.url), SystemClock(), poll=POLL, blocks=1).run(stop))
    try:
        yield
    finally:
        stop.set()
        await task


@pytest.fixture
def worker() -> Iterator[KnownRevocations]:
    worker = KnownRevocations(SystemClock(), poll=POLL)
    worker.want()
    yield worker
    worker.stop()


@pytest.fixture
async def kept(postgres: PostgresServer, worker: KnownRevocations) -> AsyncIterator[None]:
    """Nothing is revoked, and the worker knows."""
    async with keeping(postgres):
        await until_answers(worker, revoked=False)
        yield


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


async def until_answers(worker: KnownRevocations, *, revoked: bool) -> None:
    """By a look that began after this."""
    now = SystemClock().monotonic()
    await until(lambda: worker.whole_at() > now)
    assert worker.lost() == {"postgres": None}
    assert bool(worker.revokes(IDS, NOW)) is revoked


@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize(("kind", "value"), [("token", "token"), ("session", "session")])
async def test_a_token_or_session_is_revoked_until_it_is_lifted(
    postgres: PostgresServer, worker: KnownRevocations, kind: str, value: str
) -> None:
    await revoke(postgres, kind, value)
    await until_answers(worker, revoked=True)
    await sql(postgres, "UPDATE revocations SET lifted_at = now() WHERE lifted_at IS NULL")
    await until_answers(worker, revoked=False)


@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize(("kind", "value"), [("user", "alice"), ("client", "app"), ("issuer", "")])
async def test_tokens_issued_up_to_not_before_are_revoked_and_no_later_ones(
    postgres: PostgresServer, worker: KnownRevocations, kind: str, value: str
) -> None:
    await revoke(postgres, kind, value, datetime.fromtimestamp(NOW, UTC))
    await until_answers(worker, revoked=True)
    assert worker.revokes(IDS, NOW - 1) is Kind[kind.upper()]
    assert not worker.revokes(IDS, NOW + 1)
    assert not worker.revokes(("t:kc:x", "", "u:kc:bob", "", ""), NOW)


@pytest.mark.usefixtures("kept")
async def test_while_postgres_is_away_what_is_known_stays_and_its_age_grows(
    postgres: PostgresServer, worker: KnownRevocations
) -> None:
    await revoke(postgres, "token", "token")
    await until_answers(worker, revoked=True)
    postgres.kill()
    await until(lambda: worker.lost()["postgres"] is not None)
    since = worker.lost()["postgres"]
    assert since == worker.whole_at() < SystemClock().monotonic()
    assert worker.revokes(IDS, NOW)

    postgres.start()
    await until_answers(worker, revoked=True)
    assert worker.whole_at() > since


async def test_rows_of_before_and_a_bulk_load_are_all_known_and_no_other(
    postgres: PostgresServer, worker: KnownRevocations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "MOST", 50)
    rows = "SELECT 'token', 'k', '{0}-' || n FROM generate_series(1, {1}) n"
    many = f"INSERT INTO revocations (kind, issuer, value) {rows}"
    await sql(postgres, many.format("before", 500))
    async with keeping(postgres):
        await until_answers(worker, revoked=False)
        assert revoked_of(worker, "before", 500) == 500
        await sql(postgres, many.format("bulk", 500))
        await until_answers(worker, revoked=False)
        assert revoked_of(worker, "bulk", 500) == 500
        assert revoked_of(worker, "never", 500) == 0
        inode = known.path().stat().st_ino
        await sql(postgres, many.format("more", known._SPARE))  # it gets crowded: a larger one takes its place
        await until(lambda: known.path().exists() and known.path().stat().st_ino != inode)
        await until_answers(worker, revoked=False)
        assert revoked_of(worker, "before", 500) == revoked_of(worker, "bulk", 500) == 500
        assert revoked_of(worker, "more", known._SPARE) == known._SPARE
        assert revoked_of(worker, "never", 500) == 0


def revoked_of(worker: KnownRevocations, prefix: str, number: int) -> int:
    return sum(bool(worker.revokes((f"t:k:{prefix}-{n}", "", "", "", ""), NOW)) for n in range(1, number + 1))


@pytest.mark.usefixtures("kept")
async def test_a_token_that_redis_refused_is_known_until_postgres_was_asked_again(worker: KnownRevocations) -> None:
    worker.saw_revoked(IDS, Kind.SESSION)
    assert worker.revokes(IDS, NOW) is Kind.SESSION
    await until_answers(worker, revoked=False)


async def test_without_a_worker_that_wants_it_there_is_no_file(
    postgres: PostgresServer, worker: KnownRevocations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "_LOOK", 0.01)
    known.wanted_path().unlink()
    async with keeping(postgres):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await until(known.path().exists)
        worker.want()
        await until_answers(worker, revoked=False)
        monkeypatch.setattr(keeper, "_UNWANTED", 0.0)
        await until(lambda: not known.path().exists())
    assert worker.whole_at() > 0  # what it has open it still knows, and how old that is
    worker.stop()


async def test_a_worker_that_does_not_want_it_reports_nothing_about_postgres() -> None:
    worker = KnownRevocations(SystemClock(), poll=POLL)
    assert worker.lost() == {}
    assert not worker.revokes(IDS, NOW)
    assert worker.whole_at() < 0
    worker.stop()
