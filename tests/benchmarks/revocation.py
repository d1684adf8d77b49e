"""`make bench-revocation`: how late a revocation is, and what very many of them cost. Prints a table, each figure with
its bound; the exit status is 1 if one is exceeded.

One machine, nothing pinned: `tollgate serve` with one worker, Postgres, Redis (append-only file on). At last under a
policy that goes on without Redis and Postgres, so that the worker has to know the revocations by itself.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import psutil
import psycopg
from redis import Redis

from ext_authz.db import redis_keys
from ext_authz.db.migrate import migrate
from tests.benchmarks.figures import Figure, Progress, show
from tests.benchmarks.world import process_of
from tests.e2e.reload.world import Serving, policy, serving, token
from tests.postgres import PostgresServer, running_postgres
from tests.services import RedisServer, running_redis, wait_for

REFUSED = 16
_IDLE_SECONDS = 2.0
BULK = 20_000
_STEP = 250_000
_TURNS = 15
_KEY = "revocations_pkey"
_FAILURE = "failure: {redis: local, postgres: local, grace: 600s}\n"
_ROW = "INSERT INTO revocations (kind, issuer, value) VALUES ('token', 'i0', %s)"
_MANY = """
INSERT INTO revocations (kind, issuer, value, not_before, revision, xid)
SELECT CASE WHEN n %% 10 = 0 THEN 'user' ELSE 'token' END, 'i0', gen_random_uuid()::text,
       CASE WHEN n %% 10 = 0 THEN now() END, extract(epoch FROM now())::bigint * 1000000 + n, pg_current_xact_id()
FROM generate_series(1, %s) n
"""


class Bench:
    """The servers, and what was seen of them."""

    def __init__(
        self, rows: int, redis: RedisServer, other: RedisServer, postgres: PostgresServer, progress: Progress
    ) -> None:
        """`other`: Redis beside an empty list."""
        self.rows = rows
        self.figures: list[Figure] = []
        self.progress = progress
        self._redis = redis
        self._other = other
        self._postgres = postgres
        self._client: Redis = Redis.from_url(redis.url)

    def run(self, directory: Path) -> None:
        asyncio.run(migrate(self._postgres.url))
        with self.progress.step("fill Postgres"):
            self._fill()
        with self._serving(directory / "first") as server:
            with self.progress.step("rebuild"):
                self._rebuild(server)
            self._saw("Redis, per million", self._client.info("memory")["used_memory"] / self.rows, "MB")
            with self.progress.step("compare"):
                wait_for(lambda: self._client.exists(redis_keys.compared()))
                late = [self._lateness(server) for _ in range(50)]
                self._saw("SQL row in force, in the middle of a comparison", max(late), "s", 1)
                self._saw("the same, median", statistics.median(late), "s")
            with self.progress.step("bulk load"):
                self._bulk(server)
            with self.progress.step("empty list against full list"), self._beside(directory / "empty") as empty:
                self._costs(empty, server)
            self._saw("worker", _worker(server), "MB", 250)
        with self.progress.step("without both"), self._serving(directory / "second", _FAILURE) as server:
            self._without_both(server)

    def _serving(self, directory: Path, failure: str = "") -> AbstractContextManager[Serving]:
        def prepare(jwks: str) -> None:
            (directory / "policy.yaml").write_text(policy(jwks) + failure)

        return serving(_made(directory), self._redis.url, self._postgres.url, prepare=prepare)

    def _beside(self, directory: Path) -> AbstractContextManager[Serving]:
        """The same over a database and a Redis where nothing is revoked."""
        with psycopg.connect(self._postgres.url, autocommit=True) as connection:
            connection.execute("CREATE DATABASE nothing_revoked")
        url = self._postgres.url.replace("/postgres?", "/nothing_revoked?")
        return serving(_made(directory), self._other.url, url)

    def _settle(self, server: Serving, redis: RedisServer) -> None:
        """Nothing beside what is measured: no rebuild, no comparison."""
        wait_for(lambda: self._rebuilt(server))
        Redis.from_url(redis.url).set(redis_keys.compared(), 0)
        time.sleep(2)

    def _saw(self, what: str, seen: float, unit: str, bound: float = 0.0) -> None:
        self.figures.append(Figure(what, seen, unit, bound))

    def _fill(self) -> None:
        """Past the triggers, which write a history of all that and stamp row by row; indexes afterwards."""
        with psycopg.connect(self._postgres.url, autocommit=True) as connection:
            query = "SELECT indexdef FROM pg_indexes WHERE tablename = 'revocations' AND indexname != %s"
            indexes = [definition for (definition,) in connection.execute(query, (_KEY,)).fetchall()]
            later = [*indexes, f"ALTER TABLE revocations ADD CONSTRAINT {_KEY} PRIMARY KEY (id)"]
            for definition in indexes:
                connection.execute(f"DROP INDEX {definition.split()[2]}".encode())
            connection.execute(f"ALTER TABLE revocations DROP CONSTRAINT {_KEY}".encode())
            connection.execute("ALTER TABLE revocations DISABLE TRIGGER USER")
            for first in range(0, self.rows, _STEP):
                connection.execute(_MANY, (min(_STEP, self.rows - first),))
                self.progress.at("fill Postgres", 0.6 * first / self.rows)
            connection.execute("ALTER TABLE revocations ENABLE TRIGGER USER")
            connection.execute("SET maintenance_work_mem = '1GB'")
            for done, definition in enumerate(later):
                self.progress.at("fill Postgres", 0.6 + 0.4 * done / len(later))
                connection.execute(definition.encode())
            connection.execute("VACUUM ANALYZE revocations")

    def _rebuild(self, server: Serving) -> None:
        began, late, redis = time.monotonic(), [], [process_of(self._redis)]
        spent = _spent(redis)
        while not self._rebuilt(server):
            late.append(self._lateness(server))
            self.progress.at("rebuild", self._client.dbsize() / self.rows)
            time.sleep(0.1)
        (seconds,) = [line["seconds"] for line in server.log if "rebuilt" in line["event"]]
        self._saw("rebuild from Postgres", seconds, "s", 60)
        self._saw("of that, processor of Redis", _spent(redis) - spent, "s")
        self._saw("SQL row in force, in the middle of a rebuild", max(late, default=0), "s", 1)
        self._saw("from the start until Redis is complete", time.monotonic() - began, "s")

    def _rebuilt(self, server: Serving) -> bool:
        return any("rebuilt" in line["event"] for line in server.log)

    def _lateness(self, server: Serving) -> float:
        """Seconds from the commit of a row until a check of a token that passed before is refused."""
        name = str(uuid.uuid4())
        good = token(jti=name)
        assert server.check(good).status.code == 0
        with psycopg.connect(self._postgres.url, autocommit=True) as connection:
            connection.execute(_ROW, (name,))
        began = time.monotonic()
        while server.check(good).status.code != REFUSED:
            assert time.monotonic() - began < 60, "a revoked token passes"
        return time.monotonic() - began

    def _bulk(self, server: Serving) -> None:
        last = "INSERT INTO revocations (kind, issuer, value) SELECT 'session', 'i0', 'bulk-' || n"
        good = token(sid=f"bulk-{BULK}", jti="bulk")
        assert server.check(good).status.code == 0
        with psycopg.connect(self._postgres.url, autocommit=True) as connection:
            connection.execute(f"{last} FROM generate_series(1, {BULK}) n".encode())
        began = time.monotonic()
        self._saw(f"SQL row in force, right behind {BULK:,} of one statement", self._lateness(server), "s", 1)
        while server.check(good).status.code != REFUSED:
            pass
        self._saw("the last of these", time.monotonic() - began, "s")

    def _costs(self, empty: Serving, full: Serving) -> None:
        """Of one whole check, in `serve` and in Redis. In turns, and as a ratio, since other work slows both down."""
        sides = [(empty, self._other), (full, self._redis)]
        for side in sides:
            self._settle(*side)
        calls = [token(jti=str(uuid.uuid4())) for _ in range(100)] * 20
        with ThreadPoolExecutor(16) as threads:
            there_and_back = [1 - 2 * (turn % 2) for turn in range(_TURNS)]  # neither is always the first
            turns = [[_cost(*side, threads, calls) for side in sides[::way]][::way] for way in there_and_back]
        for what, costs in zip(("empty", "full"), zip(*turns, strict=True), strict=True):
            self._saw(f"a check, serve and Redis, {what} list (median)", statistics.median(costs), "us CPU")
        ratio = statistics.median(over / under for under, over in turns)
        self._saw(f"full list against empty list (median of {_TURNS} turns)", ratio, "times", 1.1)

    def _without_both(self, server: Serving) -> None:
        while not server.metric("tollgate_revocation_known_timestamp_seconds"):
            time.sleep(0.5)
        with psycopg.connect(self._postgres.url) as connection:
            query = "SELECT value FROM revocations WHERE kind = 'token' AND issuer = 'i0' LIMIT 300"
            revoked = [token(jti=value) for (value,) in connection.execute(query).fetchall()]
        good = [token(jti=str(uuid.uuid4())) for _ in range(300)]
        self._saw("worker that knows them itself", _worker(server), "MB", 250)
        self._redis.kill()
        self._postgres.kill()
        with ThreadPoolExecutor(64) as callers:  # each waits for Postgres first
            answers = list(callers.map(server.check, [*revoked, *good]))
        passed = sum(answer.status.code == 0 for answer in answers[: len(revoked)])
        refused = sum(answer.status.code != 0 for answer in answers[len(revoked) :])
        self._saw("the same, without Redis and Postgres", _worker(server), "MB", 250)
        self._saw("supervisor", psutil.Process(server.process.pid).memory_info().rss / 1e6, "MB")
        assert (passed, refused) == (0, 0), f"without both {passed} of 300 revoked pass, {refused} of 300 good do not"


def _cost(server: Serving, redis: RedisServer, threads: ThreadPoolExecutor, calls: Sequence[str]) -> float:
    """Processor microseconds of one check, without what goes on anyway: a large list is always being compared."""
    supervisor = psutil.Process(server.process.pid)
    processes = [supervisor, *supervisor.children(recursive=True), process_of(redis)]
    began, spent = time.monotonic(), _spent(processes)
    time.sleep(_IDLE_SECONDS)
    idle = (_spent(processes) - spent) / (time.monotonic() - began)
    began, spent = time.monotonic(), _spent(processes)
    codes = {answer.status.code for answer in threads.map(server.check, calls)}
    assert codes == {0}, codes
    return (_spent(processes) - spent - idle * (time.monotonic() - began)) / len(calls) * 1e6


def _spent(processes: Sequence[psutil.Process]) -> float:
    return sum(times.user + times.system for times in [process.cpu_times() for process in processes])


def _worker(server: Serving) -> float:
    """Megabytes of the largest one."""
    children = psutil.Process(server.process.pid).children(recursive=True)
    return max(child.memory_info().rss for child in children) / 1e6


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory


def main() -> int:
    """Exit status 1: a bound is exceeded."""
    parser = argparse.ArgumentParser(description="How late a revocation is, and what very many of them cost.")
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    weights = {"fill Postgres": 1 + rows / 6e4, "rebuild": 3 + rows / 1.5e5, "compare": 2, "bulk load": 3}
    weights |= {"empty list against full list": 40, "without both": 10 + rows / 1e5}
    with (
        tempfile.TemporaryDirectory() as directory,
        running_redis(_made(Path(directory) / "redis")) as redis,
        running_redis(_made(Path(directory) / "other")) as other,
        running_postgres() as postgres,
    ):
        bench = Bench(rows, redis, other, postgres, Progress(weights))
        bench.run(Path(directory))
    show(f"{rows:,} live revocations", bench.figures)
    return 0 if all(figure.holds for figure in bench.figures) else 1


if __name__ == "__main__":
    sys.exit(main())
