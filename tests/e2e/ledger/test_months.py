"""The ledger by months: what was there before is in them, each decision once, and what is dropped stays in the sums."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, LiteralString
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.errors import InsufficientPrivilege, LockNotAvailable
from pydantic import SecretStr

from ext_authz.db.migrate import migrate, read_migrations
from ext_authz.db.postgres import Connection, connect
from ext_authz.db.tables import Needs
from ext_authz.ledger import postgres
from ext_authz.ledger.event import Event, encode
from ext_authz.ledger.months import DROPS, NEEDS, Months, drop, make
from ext_authz.ledger.outcome import Outcome, insert
from ext_authz.ledger.rollups import fold
from ext_authz.ledger.stream import Row, StreamEntry, parse
from tests.e2e.billing.world import ISS, PRICES, Books
from tests.e2e.ledger.test_rollups import ensure_equal
from tests.postgres_roles import role
from tests.waiting import running, until

SUMS: LiteralString = "SELECT day, client, outcome, calls, requests, bytes_in FROM usage_daily ORDER BY 1, 2, 3"
MONTHS: LiteralString = """
SELECT name, since, until FROM usage_months WHERE ledger = 'usage_events' ORDER BY since NULLS FIRST, until NULLS FIRST
"""
SINCE = datetime(2026, 1, 1, tzinfo=UTC)
# As if the migration had been made in December 2025: the months of 2026 come after it.
EARLIER: LiteralString = """
DO $$
DECLARE
    part record;
BEGIN
    FOR part IN SELECT * FROM usage_months WHERE since IS NOT NULL LOOP
        EXECUTE format('DROP TABLE %I', part.name);
    END LOOP;
    FOR part IN SELECT * FROM usage_months WHERE until IS NOT NULL LOOP
        EXECUTE format('ALTER TABLE %I DETACH PARTITION %I', part.ledger, part.name);
        EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (MINVALUE) TO (%L)', part.ledger, part.name,
            usage_first_id('2026-01-01 00:00Z'));
    END LOOP;
    PERFORM usage_months_ahead();
END $$
"""


def decision(at: datetime, number: int = 0) -> UUID:
    return UUID(int=(int(at.timestamp() * 1000) << 80) | (7 << 76) | (2 << 62) | number)


def row(id_: UUID, at: datetime) -> Row:
    event = Event(str(id_), client="shop", model="sentiment", issuer=ISS, subject="s", route="infer")
    parsed = parse(StreamEntry(f"{int(at.timestamp() * 1000)}-0", {b"e": encode(event), b"o": b"0"}))
    assert isinstance(parsed, Row)
    return parsed


def outcome(id_: UUID) -> Outcome:
    return Outcome(id_, 200, -1, "", "", 5.0, 3, 7, "", "", 1, 1.5, -1)


async def called(connection: Connection, *days: datetime) -> None:
    """A call at each of these times."""
    await postgres.write(connection, "stream", [row(decision(at), at) for at in days], [])
    await insert(connection, [outcome(decision(at)) for at in days])


async def fetched(connection: Connection, query: LiteralString) -> list[tuple[Any, ...]]:
    return await (await connection.execute(query)).fetchall()


async def held(connection: Connection) -> dict[str, list[tuple[Any, ...]]]:
    """All that the ledger has."""
    queries: dict[str, LiteralString] = {
        "events": "SELECT row_to_json(e)::text FROM usage_events AS e ORDER BY decision_id",
        "outcomes": "SELECT row_to_json(o)::text FROM call_outcomes AS o ORDER BY decision_id",
        "billable": "SELECT row_to_json(b)::text FROM billable AS b ORDER BY decision_id",
        "sums": "SELECT row_to_json(d)::text FROM usage_daily AS d ORDER BY day, series",
        "changes": "SELECT row_to_json(c)::text FROM usage_changes AS c ORDER BY decision_id, change",
    }
    return {name: await fetched(connection, query) for name, query in queries.items()}


def in_month(year: int, month: int, day: int = 10) -> datetime:
    return datetime(year, month, day, 12, tzinfo=UTC)


async def test_rows_and_grants_of_before_are_there_afterwards_and_each_decision_once(database_url: str) -> None:
    before = [one.name.endswith("_months") for one in read_migrations()].index(True)
    await migrate(database_url, read_migrations()[:before])
    now = datetime.now(UTC)
    ids = [*(decision(in_month(2025, month)) for month in range(1, 13)), decision(now), uuid4(), uuid4()]
    ids.append(decision(in_month(now.year + 1, 1)))
    rows = [row(id_, now) for id_ in ids]
    grants = ("GRANT SELECT ON usage_events TO {role}", "GRANT SELECT (status) ON call_outcomes TO {role}")
    with role(database_url, *grants) as reader:
        async with await connect(database_url) as connection:
            await postgres.write(connection, "stream", rows, [])
            await insert(connection, [outcome(id_) for id_ in [*ids[::2], uuid4()]])
            was = await held(connection)
            await migrate(database_url)
            assert await held(connection) == was
            again = await postgres.write(connection, "stream", rows, [])
            assert (again.inserted, again.duplicate, again.broken) == (0, len(rows), 0)
            assert await insert(connection, [outcome(id_) for id_ in ids[::2]]) == 0
            assert await held(connection) == was
            await ensure_equal(connection)
        async with await connect(reader) as connection:
            assert len(await fetched(connection, "SELECT FROM usage_events")) == len(ids)
            assert len(await fetched(connection, "SELECT status FROM call_outcomes")) > 0
            with pytest.raises(InsufficientPrivilege):
                await connection.execute("SELECT flags FROM call_outcomes")
            with pytest.raises(InsufficientPrivilege):
                await connection.execute("INSERT INTO usage_events SELECT * FROM usage_events")


async def test_months_are_made_ahead_and_take_in_what_came_before_them(database_url: str) -> None:
    await migrate(database_url)
    now = datetime.now(UTC)
    later = datetime(now.year + (now.month + 1) // 12, (now.month + 1) % 12 + 1, 3, tzinfo=UTC)
    table = f"usage_events_{later:%Y_%m}"
    async with await connect(database_url) as connection:
        assert await make(connection) == 0, "the migration made them"
        months = await fetched(connection, MONTHS)
        assert [since for _, since, _ in months[2:]] == [until for _, _, until in months[1:-1]], "without a gap"
        for name, since, _ in months:
            if since and since >= later.replace(day=1):
                await connection.execute(f"DROP TABLE {name}, {name.replace('usage_events', 'call_outcomes')}".encode())
        await called(connection, later, later.replace(day=4))
        was = await held(connection)
        assert await make(connection) > 0
        assert await fetched(connection, MONTHS) == months
        assert await held(connection) == was
        assert await fetched(connection, f"SELECT count(*) FROM {table}") == [(2,)]
        await called(connection, later)
        assert await held(connection) == was, "once, also in another part"
        await ensure_equal(connection)


@pytest.fixture
def books(database_url: str, tmp_path: Path) -> Books:
    """An account that pays for `shop`, with the months of 2026."""
    asyncio.run(migrate(database_url))
    made = Books(database_url, tmp_path)
    with psycopg.connect(database_url) as connection:
        connection.execute(EARLIER)
    made.publish(PRICES.replace("2026-01-01", "2025-01-01"))
    made.account("acme", "shop", anchor="2025-12-01")
    return made


def dropped(books: Books, keep: int = 3) -> tuple[list[str], str]:
    async def work() -> tuple[list[str], str]:
        async with await connect(books.database_url) as connection:
            return await drop(connection, keep)

    return asyncio.run(work())


def summed(books: Books) -> Sequence[tuple[Any, ...]]:
    async def work() -> None:
        async with await connect(books.database_url) as connection:
            while await fold(connection):
                pass

    asyncio.run(work())
    return books.sql(SUMS)


def final_until(books: Books, month: int) -> None:
    """Bills up to the beginning of this month of 2026."""
    for _ in range(month):
        books.tollgate("finalize", "acme")


def test_a_month_is_dropped_when_its_bills_are_final_and_stays_in_the_sums(books: Books) -> None:
    for month in ("2025-12-10", "2026-01-10", "2026-02-10"):
        books.call(month, 5)
    assert dropped(books) == ([], "changes that are not in the sums yet")
    sums = summed(books)
    assert dropped(books) == ([], "account acme, whose bills are final up to no day")
    final_until(books, 2)
    first, second = books.tollgate("export", "1"), books.lines("2")
    kept = "account acme, whose bills are final up to 2026-02-01"
    assert dropped(books, keep=1200) == ([], "")
    assert dropped(books) == (["usage_events_before"], kept), "January may have events of February's bill"
    assert books.sql("SELECT count(*) FROM usage_events") == books.sql("SELECT count(*) FROM call_outcomes") == [(10,)]
    assert books.sql(SUMS) == sums
    assert (books.tollgate("export", "1"), books.lines("2")) == (first, second)
    assert books.document("acme", "2026-02-15")["bill"]["usage"][0]["calls"] == 5
    assert books.tollgate("verify").startswith("2:")
    gone = books.run("explain", "1", "2")
    assert (gone.exit_code, gone.stderr) == (
        0,
        "the ledger does not keep the calls of 2025-12-01/2026-01-01 any more\n",
    )
    assert len(books.tollgate("explain", "2", "2", "--format", "csv").splitlines()) == 6


def test_a_month_is_kept_until_it_is_published(books: Books) -> None:
    books.sql("INSERT INTO usage_publishing DEFAULT VALUES")
    books.call("2025-12-10", 1)
    summed(books)
    final_until(books, 2)
    assert dropped(books) == ([], "decisions that are not published yet")
    books.sql("DELETE FROM usage_outbox")
    assert dropped(books)[0] == ["usage_events_before"]


def test_what_comes_again_or_late_of_a_dropped_month_changes_nothing(books: Books) -> None:
    again, settled_late = in_month(2025, 12), in_month(2025, 11)

    async def write() -> postgres.Moved:
        async with await connect(books.database_url) as connection:
            moved = await postgres.write(connection, "stream", [row(decision(again), again)], [])
            await insert(connection, [outcome(decision(again)), outcome(decision(settled_late))])
            return moved

    assert asyncio.run(write()).inserted == 1
    books.call("2025-12-11", 1, status=None)
    sums = summed(books)
    final_until(books, 2)
    assert dropped(books)[0] == ["usage_events_before"]
    assert asyncio.run(write()).broken == 1
    assert summed(books) == sums
    ((reason,),) = books.sql("SELECT reason FROM usage_rejects")
    assert "its_month_was_dropped" in reason
    assert len(books.sql("SELECT FROM usage_events")) == 0


async def test_nobody_is_in_the_middle_of_writing_when_a_month_is_dropped(books: Books) -> None:
    at = in_month(2025, 12)
    for _ in range(2):
        await asyncio.to_thread(books.tollgate, "finalize", "acme")
    async with await connect(books.database_url) as connection, await connect(books.database_url) as other:
        async with other.transaction():
            await called(other, at)
            with pytest.raises(LockNotAvailable):
                await drop(connection, 3)
        assert await drop(connection, 3) == ([], "changes that are not in the sums yet")
        await fold(connection)
        assert (await drop(connection, 3))[0] == ["usage_events_before"]
        assert await fetched(connection, "SELECT sum(calls)::int FROM usage_daily") == [(1,)]
        await called(connection, datetime.now(UTC))


def grants(needs: Needs) -> list[str]:
    return [f"GRANT {', '.join(rights)} ON {table} TO {{role}}" for table, rights in needs.items()]


async def test_who_may_write_has_months_made_and_who_may_delete_has_them_dropped(books: Books) -> None:
    with role(books.database_url, "GRANT SELECT ON usage_events TO {role}") as url:
        async with await connect(url) as connection:
            with pytest.raises(InsufficientPrivilege, match="who may insert into usage_events"):
                await make(connection)
    with role(books.database_url, *grants(NEEDS)) as url:
        async with await connect(url) as connection:
            assert await make(connection) == 0
            with pytest.raises(InsufficientPrivilege, match="who may delete from usage_events"):
                await drop(connection, 3)
    with role(books.database_url, *grants(DROPS)) as url:
        async with await connect(url) as connection:
            assert await drop(connection, 3) == ([], "account acme, whose bills are final up to no day")
            with pytest.raises(InsufficientPrivilege):
                await drop(connection, 0)


async def test_the_worker_looks_after_months_and_says_what_keeps_one(
    books: Books, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "ext_authz.ledger.months")
    async with running(Months(SecretStr(books.database_url), 3)):
        await until(lambda: "a month is kept for longer" in caplog.text)
    books.sql("DELETE FROM billing_clients; DELETE FROM billing_subscriptions; DELETE FROM billing_accounts")
    async with running(Months(SecretStr(books.database_url), 3)):
        await until(lambda: "months dropped" in caplog.text)
    with psycopg.connect(books.database_url) as connection:
        names = [name for name, *_ in connection.execute(MONTHS).fetchall()]
    now = datetime.now(UTC)
    assert names[1] == f"usage_events_{now.year - (now.month <= 3)}_{(now.month - 4) % 12 + 1:02}"
