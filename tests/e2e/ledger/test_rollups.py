"""Usage by hour and by day is what a count from scratch gives, in whatever order and how late and often things come."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import LiteralString
from uuid import UUID

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from ext_authz.billing.model import Amounts, Span, UsageKey
from ext_authz.billing.usage import usage
from ext_authz.db.migrate import migrate, read_migrations
from ext_authz.db.postgres import Connection, connect
from ext_authz.ledger import postgres
from ext_authz.ledger.event import Event, encode
from ext_authz.ledger.metrics import LEDGER_UNSUMMED
from ext_authz.ledger.outcome import Outcome, insert
from ext_authz.ledger.rollups import Rollups, fold
from ext_authz.ledger.stream import Row, StreamEntry, parse
from tests.e2e.ledger.test_billable import EVENT
from tests.waiting import running, until

HOUR = 3600
FIRST, LAST = datetime(2020, 1, 1, tzinfo=UTC), datetime(2040, 1, 1, tzinfo=UTC)
TABLES: dict[LiteralString, LiteralString] = {"hour": "usage_hourly", "day": "usage_daily"}
KEYS: LiteralString = "client, issuer, subject, model, model_version, route, outcome, billed"
EMPTY: LiteralString = "TRUNCATE usage_events, call_outcomes, usage_rejects, usage_hourly, usage_daily, usage_changes"


CUT: LiteralString = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
ORDER BY random() LIMIT 1
"""


def id_of(number: int) -> UUID:
    """In the order of time, as the authorizer mints them."""
    return UUID(int=((1_795_000_000_000 + number) << 80) | (7 << 76) | (2 << 62))


def row(number: int, reason: str = "allowed", seconds: int = 0) -> Row:
    """An event of one of three clients, of which one is an API token of ours, `seconds` after it was decided."""
    client, subject = ("c0", "c1", "tollgate:mine")[number % 3], f"s{number % 2}"
    event = Event(
        str(id_of(number)), reason=reason, client=client, model=f"m{number % 2}", issuer="iss", subject=subject
    )
    at = 1_795_000_000 + number * 900 + seconds
    parsed = parse(StreamEntry(f"{at}000-0", {b"e": encode(event), b"o": b"0"}))
    assert isinstance(parsed, Row)
    return parsed


def outcome(number: int, status: int) -> Outcome:
    return Outcome(id_of(number), status, -1, "", "", 5.0, number, 7, "", "", 1, 1.1 * number, number % 4 - 1)


async def write(connection: Connection, *rows: Row) -> None:
    await postgres.write(connection, "stream", rows, [])


async def ensure_equal(connection: Connection) -> None:
    """What bills read, and then the sums after all changes were added."""
    await ensure_billed(connection)
    while await fold(connection):
        pass
    await ensure_billed(connection)
    for unit, table in TABLES.items():
        held: LiteralString = (
            f"SELECT {unit}, {KEYS}, calls, requests, units, bytes_in, bytes_out, seconds FROM {table}"
        )
        counted: LiteralString = f"""
            SELECT date_trunc('{unit}', occurred_at, 'UTC'), {KEYS}, count(*), sum(requests), sum(units), sum(bytes_in),
                sum(bytes_out), sum(seconds)
            FROM (SELECT client, CASE WHEN client LIKE 'tollgate:%' THEN subject ELSE '' END AS subject, issuer, model,
                model_version, route, outcome, billed, occurred_at, requests, units, bytes_in, bytes_out, seconds
                FROM billable) AS one GROUP BY 1, {KEYS}
        """
        rows = await (await connection.execute(f"{held} WHERE calls <> 0")).fetchall()
        assert sorted(rows) == sorted(await (await connection.execute(counted)).fetchall())
    assert await (await connection.execute("SELECT count(*) FROM usage_changes")).fetchall() == [(0,)]


async def ensure_billed(connection: Connection) -> None:
    """However much of it is in the sums."""
    spans = [Span("iss", client, FIRST, LAST) for client in ("c0", "c1", "s0", "s1")]
    counted: LiteralString = """
        SELECT issuer, payer, model, model_version, route, outcome, billed, count(*), sum(requests)::bigint,
            sum(units)::bigint, sum(bytes_in)::bigint, sum(bytes_out)::bigint, sum(seconds)
        FROM (SELECT *, CASE WHEN client LIKE 'tollgate:%' THEN subject ELSE client END AS payer FROM billable) AS one
        WHERE payer IN ('c0', 'c1', 's0', 's1') GROUP BY 1, 2, 3, 4, 5, 6, 7
    """
    rows = await (await connection.execute(counted)).fetchall()
    assert await usage(connection, spans) == {UsageKey(*row[:7]): Amounts(*row[7:]) for row in rows}


@pytest.fixture(scope="module")
def url(postgres_server: str) -> Iterator[str]:
    """A database of all tests here; each of them empties its tables."""
    with psycopg.connect(postgres_server, autocommit=True) as admin:
        admin.execute("CREATE DATABASE rollups")
        url = postgres_server.replace("/postgres?", "/rollups?")
        asyncio.run(migrate(url))
        yield url
        admin.execute("DROP DATABASE rollups WITH (FORCE)")


def each(url: str, work: Callable[[Connection], Awaitable[None]]) -> None:
    """On empty tables."""

    async def run() -> None:
        async with await connect(url) as connection:
            await connection.execute(EMPTY)
            await work(connection)

    asyncio.run(run())


numbers = st.integers(0, 7)
steps = st.one_of(
    st.tuples(st.just("event"), numbers, st.sampled_from(["allowed", "allowed", "forbidden", "over_limit"])),
    st.tuples(st.just("answered otherwise"), numbers, st.sampled_from([0, HOUR])),
    st.tuples(st.just("outcome"), numbers, st.sampled_from([200, 200, 500, 0])),
    st.tuples(st.just("at another time"), numbers, st.integers(1, 50)),
    st.tuples(st.just("added"), st.integers(1, 5), st.booleans()),
)


async def take(connection: Connection, step: tuple[str, int, int | str]) -> None:
    match step:
        case ("event", number, str(reason)):
            await write(connection, row(number, reason))
        case ("answered otherwise", number, int(late)):
            await write(connection, row(number, "unavailable", late))
        case ("outcome", number, int(status)):
            await insert(connection, [outcome(number, status)])
        case ("at another time", number, int(hours)):
            query = (
                "UPDATE usage_events SET occurred_at = occurred_at + make_interval(hours => %s) WHERE decision_id = %s"
            )
            await connection.execute(query, (hours, id_of(number)))
        case ("added", most, False):
            await fold(connection, most)
        case (_, most, _):
            await killed(connection, most)


async def killed(connection: Connection, most: int) -> None:
    """A worker that has added changes, and ends before it commits."""
    async with connection.transaction(force_rollback=True):
        await fold(connection, most)


@given(st.lists(steps, max_size=40))
@settings(max_examples=30)
def test_sums_are_those_of_a_count_from_scratch_after_any_steps(
    url: str, taken: Sequence[tuple[str, int, int]]
) -> None:
    async def work(connection: Connection) -> None:
        for step in taken:
            await take(connection, step)
            await ensure_billed(connection)
        await ensure_equal(connection)

    each(url, work)


class Cuts:
    """Writers and workers whose connections are cut all the time; each does again what it was at."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._ended = asyncio.Event()

    async def run(self, parts: Sequence[Sequence[tuple[str, int]]]) -> None:
        async with asyncio.TaskGroup() as tasks:
            for work in (self._add, self._add, self._cut):
                tasks.create_task(self._retried(work))
            await asyncio.gather(*(self._write(part) for part in parts))
            self._ended.set()

    async def _retried(self, work: Callable[[Connection], Awaitable[object]]) -> None:
        done = False
        while not done:
            with suppress(psycopg.OperationalError):
                async with await connect(self._url) as connection:
                    await work(connection)
                    done = True

    async def _write(self, part: Sequence[tuple[str, int]]) -> None:
        for at in range(0, len(part), 50):
            some = part[at : at + 50]
            events = [row(n) for kind, n in some if kind == "event"]
            outcomes = [outcome(n, 200 if n % 5 else 504) for kind, n in some if kind == "outcome"]
            await self._retried(partial(_write, rows=events))
            await self._retried(partial(insert, outcomes=outcomes))

    async def _add(self, connection: Connection) -> None:
        while not self._ended.is_set():
            await fold(connection, 40)

    async def _cut(self, connection: Connection) -> None:
        while not self._ended.is_set():
            await connection.execute(CUT)
            await asyncio.sleep(0.02)


async def _write(connection: Connection, rows: Sequence[Row]) -> None:
    await write(connection, *rows)


def test_writers_and_two_workers_lose_and_double_nothing_though_connections_are_cut(url: str) -> None:
    chance, count = random.Random(7), 1500
    events, outcomes = [("event", n) for n in range(count)], [("outcome", n) for n in range(count)]
    chance.shuffle(events)
    chance.shuffle(outcomes)

    async def all_of_it() -> None:
        async with await connect(url) as connection:
            await connection.execute(EMPTY)
        await Cuts(url).run([events, outcomes, events[::-1]])
        async with await connect(url) as connection:
            await ensure_equal(connection)
            cursor = await connection.execute("SELECT sum(calls)::int, sum(requests)::int FROM usage_daily")
            assert await cursor.fetchall() == [(count, count - count // 5)]

    asyncio.run(all_of_it())


def test_who_adds_is_in_nobodys_way(url: str) -> None:
    async def work(connection: Connection) -> None:
        await write(connection, row(1), row(2))
        async with await connect(url) as other:
            async with connection.transaction():
                assert await fold(connection) == 2
                assert await fold(other) is None, "one at a time"
                await other.execute("SET statement_timeout = '2s'")
                await write(other, row(3), row(1, "unavailable"))
                await insert(other, [outcome(1, 200), outcome(2, 200), outcome(4, 200)])
            await ensure_equal(other)

    each(url, work)


def test_names_longer_than_an_index_takes_have_sums_too(url: str) -> None:
    async def work(connection: Connection) -> None:
        long = "".join(random.Random(1).choices("abcdefghijklmnopqrstuvwxyz0123456789", k=2500))
        event = "INSERT INTO usage_events SELECT (jsonb_populate_record(e, %s::jsonb)).* FROM usage_events AS e"
        await write(connection, row(1))
        await connection.execute("UPDATE usage_events SET client = %s, issuer = %s, route = %s", (long, long, long * 9))
        await connection.execute(event, (f'{{"decision_id": "{id_of(2)}"}}',))
        await ensure_equal(connection)

    each(url, work)


def test_the_worker_adds_what_waits_and_says_how_much(url: str) -> None:
    async def work(connection: Connection) -> None:
        LEDGER_UNSUMMED.set(-1)
        await write(connection, *map(row, range(20)))
        async with running(Rollups(SecretStr(url))):
            await until(lambda: LEDGER_UNSUMMED._value.get() == 0)
        cursor = await connection.execute("SELECT sum(calls)::int FROM usage_hourly")
        assert await cursor.fetchall() == [(20,)]

    each(url, work)


async def test_what_was_there_before_is_counted_when_the_tables_are_made(database_url: str) -> None:
    before = [one.name for one in read_migrations()].index("0018_rollups")
    await migrate(database_url, read_migrations()[:before])
    async with await connect(database_url) as connection:
        for number in range(50):
            await connection.execute(EVENT, (id_of(number), number * 7, "allowed", "/v2"))
        await insert(connection, [outcome(number, 200) for number in range(0, 60, 2)])
        await migrate(database_url)
        await insert(connection, [outcome(number, 200) for number in range(1, 60, 4)])
        await ensure_equal(connection)
