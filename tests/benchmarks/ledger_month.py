"""`make bench-ledger`: a month of a thousand clients in the ledger: how fast it gets there, its size, and how long its
bills take. Prints a table, each figure with its bound; the exit status is 1 if one is exceeded.

One machine, one Postgres with its own defaults but for what is said here, nothing pinned. Events have no decision
records: they are emptied after `TOLLGATE_FACTS_KEEP`.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from datetime import UTC, datetime
from typing import Any, LiteralString
from uuid import UUID

from ext_authz.billing.model import Span
from ext_authz.billing.usage import usage
from ext_authz.db.migrate import migrate
from ext_authz.db.postgres import Connection, connect
from ext_authz.ledger import postgres
from ext_authz.ledger.event import Event, encode
from ext_authz.ledger.rollups import fold
from ext_authz.ledger.stream import Row, StreamEntry, parse
from tests.benchmarks.figures import Figure, Progress, show
from tests.postgres import running_postgres

CLIENTS = 1000
SINCE, UNTIL = datetime(2026, 10, 1, tzinfo=UTC), datetime(2026, 11, 1, tzinfo=UTC)
_STEP = 100_000
_BATCH = 1000
_PAUSE = 0.05
"""Seconds between two batches that are written beside the sums."""
_STEPS = {"events": 5.0, "outcomes": 3.0, "sums": 8.0, "bills": 1.0}
# Spread over the month, so that ids are in the order of time; each client calls two of 21 models, and one call in ten
# fails.
_ID: LiteralString = """
(lpad(to_hex((extract(epoch FROM %(since)s::timestamptz) * 1000
    + n * (31 * 86400000.0 / %(rows)s))::bigint), 12, '0') || '7' || lpad(to_hex(n %% 4096), 3, '0') || '8'
    || lpad(to_hex(n), 15, '0'))::uuid
"""
_EVENTS: LiteralString = f"""
INSERT INTO usage_events (decision_id, occurred_at, issuer, subject, client, token_id, route, model, model_version,
    method, path, reason, code, policy, username)
SELECT {_ID}, %(since)s::timestamptz + n * (interval '31 days' / %(rows)s), 'https://id.example/realms/ml',
    md5((n %% 5000)::text), 'client-' || n %% {CLIENTS}, md5((n / 40)::text), 'infer', 'model-' || model, '1', 'POST',
    '/v2/models/model-' || model || '/infer', CASE WHEN n %% 50 = 0 THEN 'over_limit' ELSE 'allowed' END, '',
    'f3a9c1d2e4b5a697', ''
FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS n
CROSS JOIN LATERAL (SELECT n %% 20 + (n / 7000) %% 2 AS model) AS called
"""
_OUTCOMES: LiteralString = f"""
INSERT INTO call_outcomes (decision_id, status, flags, details, duration_ms, bytes_in, bytes_out, upstream,
    upstream_address, attempts, upstream_ms, units)
SELECT {_ID}, CASE WHEN n %% 10 = 3 THEN 500 ELSE 200 END, '', 'via_upstream', 12.5, 120, 300, 'triton_http_stable',
    '10.0.0.7:8000', 1, 11.25, CASE WHEN n %% 3 = 0 THEN n %% 17 END
FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS n WHERE n %% 50 <> 0
"""
_BILLS: LiteralString = """
SELECT client, model, model_version, route, outcome, sum(calls), sum(requests), sum(units), sum(bytes_in),
    sum(bytes_out), sum(seconds)
FROM usage_daily WHERE day >= %(since)s AND day < %(until)s GROUP BY 1, 2, 3, 4, 5
"""


class Bench:
    """The ledger of one month."""

    def __init__(self, connection: Connection, url: str, rows: int, progress: Progress) -> None:
        self.figures: list[Figure] = []
        self._connection = connection
        self._url = url
        self._rows = rows
        self._progress = progress
        self._now = 0

    async def run(self) -> None:
        before = [await self._written() for _ in range(50)]
        await self._fill("events", _EVENTS)
        await self._fill("outcomes", _OUTCOMES)
        await self._execute("VACUUM ANALYZE")
        beside = await self._sums()
        self._saw("a worker's batch of 1,000 events, median, with nothing beside it", statistics.median(before), "ms")
        self._saw("the same while changes are added to the sums, median", statistics.median(beside), "ms")
        self._saw("the same, the longest", max(beside), "ms", 2000)
        await self._sizes()
        with self._progress.step("bills"):
            await self._bills()

    async def _fill(self, step: str, query: LiteralString) -> None:
        began = time.monotonic()
        with self._progress.step(step):
            for first in range(0, self._rows, _STEP):
                last = min(first + _STEP, self._rows) - 1
                await self._execute(query, since=SINCE, rows=self._rows, first=first, last=last)
                self._progress.at(step, last / self._rows)
        self._saw(f"{step}, inserted by one connection", self._rows / (time.monotonic() - began) / 1000, "thousand/s")

    async def _sums(self) -> list[float]:
        """Milliseconds of each batch that is written while one worker adds all changes to the sums."""
        ((left,),) = await self._execute("SELECT count(DISTINCT decision_id) FROM usage_changes")
        began, seen = time.monotonic(), list[float]()
        with self._progress.step("sums"):
            folding = asyncio.create_task(self._fold(left))
            while not folding.done():
                seen.append(await self._written())
                await asyncio.sleep(_PAUSE)
        self._saw("decisions added to the sums by one worker", left / (time.monotonic() - began) / 1000, "thousand/s")
        return seen

    async def _fold(self, left: int) -> None:
        async with await connect(self._url) as connection:
            done = 0
            while done < left:
                done += await fold(connection) or 0
                self._progress.at("sums", done / left)

    async def _written(self) -> float:
        """Milliseconds of a batch, as the usage worker writes it."""
        self._now += _BATCH
        rows = [_row(self._now + number) for number in range(_BATCH)]
        began = time.monotonic()
        await postgres.write(self._connection, "stream", rows, [])
        return (time.monotonic() - began) * 1000

    async def _sizes(self) -> None:
        for table in ("usage_events", "call_outcomes", "usage_hourly", "usage_daily"):
            ((size, rows),) = await self._execute(
                "SELECT coalesce((SELECT sum(pg_total_relation_size(relid))::bigint FROM pg_partition_tree(%(table)s)),"
                " pg_total_relation_size(%(table)s::regclass)), (SELECT count(*) FROM " + table + ")",
                table=table,
            )
            self._saw(f"{table}: rows", rows / 1e6, "million")
            self._saw(f"{table}: a row with its indexes", size / max(1, rows), "bytes")

    async def _bills(self) -> None:
        began = time.monotonic()
        lines = await self._execute(_BILLS, since=SINCE, until=UNTIL)
        self._saw("a month of 1,000 clients, from the sums by day", time.monotonic() - began, "s", 30)
        self._saw("the same: lines", len(lines) / 1000, "thousand")
        spans = [Span("https://id.example/realms/ml", f"client-{n}", SINCE, UNTIL) for n in range(CLIENTS)]
        began = time.monotonic()
        counted = await usage(self._connection, spans)
        self._saw("the same usage, as bills read it", time.monotonic() - began, "s", 30)
        held = sum(line[6] for line in lines)
        assert sum(amounts.requests for amounts in counted.values()) == held, "both are the same usage"

    async def _execute(self, query: LiteralString, **values: object) -> list[tuple[Any, ...]]:
        cursor = await self._connection.execute(query, values)
        return await cursor.fetchall() if cursor.description else []

    def _saw(self, what: str, seen: float, unit: str, bound: float = 0.0) -> None:
        self.figures.append(Figure(what, seen, unit, bound))


def _row(number: int) -> Row:
    """Of a month that nobody is billed for here."""
    at = int(UNTIL.timestamp() * 1000) + number
    decision_id = UUID(int=(at << 80) | (7 << 76) | (2 << 62) | number)
    event = Event(str(decision_id), client=f"other-{number % 100}", model="model", route="infer", subject="subject")
    row = parse(StreamEntry(f"{at}-0", {b"e": encode(event), b"o": b"0"}))
    if not isinstance(row, Row):
        raise TypeError(row.reason)
    return row


async def _run(rows: int) -> list[Figure]:
    with running_postgres() as server:
        await migrate(server.url)
        async with await connect(server.url) as connection:
            bench = Bench(connection, server.url, rows, Progress(_STEPS))
            await bench.run()
            return bench.figures


def main() -> int:
    """Exit status 1: a bound is exceeded."""
    parser = argparse.ArgumentParser(description="What a month of a thousand clients costs in the ledger.")
    parser.add_argument("--rows", type=int, default=10_000_000, help="Calls in the month.")
    rows = parser.parse_args().rows
    figures = asyncio.run(_run(rows))
    show(f"{rows:,} calls in a month", figures)
    return 0 if all(figure.holds for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
