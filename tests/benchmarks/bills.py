"""What a running bill costs checks: `python -m tests.benchmarks.bills`

One connection asks the authorizer, one check after the other, in turns with and without `tollgate bill draft`, which is
run again and again over a ledger of synthetic rows of the current month, and beside a process that only computes. Which
is first changes. Everything shares the processors of the machine: the bill, Postgres, Redis, the caller.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import LiteralString

import grpc
import psycopg

from ext_authz.db.postgres import connect
from ext_authz.gen.tollgate.envoy.v3.external_auth_pb2 import CheckResponse
from ext_authz.ledger.rollups import fold
from tests.benchmarks.load import METHOD
from tests.benchmarks.world import World, authorizer, messages, world
from tests.e2e.billing.world import ISS, Books

_ROWS: LiteralString = """
INSERT INTO usage_events (decision_id, occurred_at, issuer, subject, client, token_id, route, model, model_version,
    method, path, reason, code, policy)
SELECT gen_random_uuid(), %s::timestamptz + number * interval '80 ms', %s, 'user-' || number %% 1000,
    'client-' || number %% 100, '', 'infer', 'model-' || number %% 20, '1', 'POST', '/', 'allowed', '', ''
FROM generate_series(1, %s) AS number
"""
_OUTCOMES: LiteralString = """
INSERT INTO call_outcomes (decision_id, status, grpc_status, flags, details, duration_ms, bytes_in, bytes_out, upstream,
    upstream_address, attempts, upstream_ms)
SELECT decision_id, 200, NULL, '', '', 1.5, 100, 200, '', '', 1, 1.5 FROM usage_events
"""
_WITH, _WITHOUT, _BUSY = "a bill, again and again", "nothing", "a process that computes and reads nothing"


def main() -> None:
    """A row for each."""
    options = argparse.ArgumentParser(description="What a running bill costs checks.")
    options.add_argument("--rows", type=int, default=1_000_000, help="of the ledger (default: %(default)s)")
    options.add_argument("--turns", type=int, default=6, help="of each (default: %(default)s)")
    options.add_argument("--seconds", type=float, default=5, help="of each turn (default: %(default)s)")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as directory, world(Path(directory)) as here:
        _fill(here, given.rows)
        with authorizer(here, "h2corn") as (_, port), grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            check: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(METHOD)
            took: dict[str, list[float]] = {_WITHOUT: [], _WITH: [], _BUSY: []}
            bills: list[float] = []
            for turn in range(given.turns):
                for name in sorted(took, reverse=bool(turn % 2)):
                    with _billing(here, bills) if name == _WITH else _computing(name == _BUSY):
                        took[name] += _checks(check, given.seconds)
    sys.stdout.write("\n".join(_table(took, bills, given.rows)) + "\n")


def _fill(here: World, rows: int) -> None:
    """Of a month that began yesterday, so that one account with all clients has them on its draft."""
    since = datetime.now(UTC).date() - timedelta(1)
    with psycopg.connect(here.environ["TOLLGATE_DATABASE_URL"], autocommit=True) as database:
        database.execute(_ROWS, (since, ISS, rows))
        database.execute(_OUTCOMES)
        database.execute("VACUUM ANALYZE")
    asyncio.run(_sum(here.environ["TOLLGATE_DATABASE_URL"]))
    books = Books(here.environ["TOLLGATE_DATABASE_URL"], here.directory)
    books.publish()
    books.account("acme", *(f"client-{number}" for number in range(100)), anchor=str(since))


async def _sum(url: str) -> None:
    """As a usage worker does."""
    async with await connect(url) as connection:
        while await fold(connection):
            pass


@contextmanager
def _computing(busy: bool) -> Iterator[None]:  # noqa: FBT001 - of one caller
    """What a process costs that shares the processors and nothing else."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if busy else None
    try:
        yield
    finally:
        if process:
            process.kill()
            process.wait()


@contextmanager
def _billing(here: World, bills: list[float]) -> Iterator[None]:
    """Meanwhile, adding what each took."""
    over = threading.Event()

    def draft() -> None:
        while not over.is_set():
            began = time.monotonic()
            command = [sys.executable, "-m", "ext_authz", "bill", "draft", "acme"]
            subprocess.run(command, env=os.environ | here.environ, check=True, stdout=subprocess.DEVNULL)
            bills.append(time.monotonic() - began)

    thread = threading.Thread(target=draft)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _checks(check: grpc.UnaryUnaryMultiCallable[bytes, bytes], seconds: float) -> list[float]:
    """Milliseconds of each."""
    message, took, end = messages()["good"], [], time.monotonic() + seconds
    while (began := time.monotonic()) < end:
        assert CheckResponse.FromString(check(message)).status.code == 0
        took.append((time.monotonic() - began) * 1000)
    return took


def _table(took: dict[str, list[float]], bills: list[float], rows: int) -> Iterator[str]:
    yield "| meanwhile | checks | p50 | p99 |"
    yield "|---|---|---|---|"
    for name, each in took.items():
        p99 = statistics.quantiles(each, n=100)[98]
        yield f"| {name} | {len(each):,} | {statistics.median(each):.2f} ms | {p99:.2f} ms |"
    yield f"\n{len(bills)} drafts over {rows:,} rows, {statistics.median(bills):.1f} s each."


if __name__ == "__main__":
    main()
