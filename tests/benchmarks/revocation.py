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
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import psutil
import psycopg
from msgspec import Struct
from redis import Redis

from ext_authz import redis_keys
from ext_authz.db.migrate import migrate
from tests.e2e.reload.world import Serving, policy, serving, token
from tests.postgres import PostgresServer, running_postgres
from tests.services import RedisServer, running_redis

REFUSED = 16
BULK = 20_000
_STEP = 250_000
_FAILURE = "failure: {redis: local, postgres: local, grace: 600s}\n"
_ROW = "INSERT INTO revocations (kind, issuer, value) VALUES ('token', 'i0', %s)"
_MANY = """
INSERT INTO revocations (kind, issuer, value, not_before, revision, xid)
SELECT CASE WHEN n %% 10 = 0 THEN 'user' ELSE 'token' END, 'i0', gen_random_uuid()::text,
       CASE WHEN n %% 10 = 0 THEN now() END, extract(epoch FROM now())::bigint * 1000000 + n, pg_current_xact_id()
FROM generate_series(1, %s) n
"""


class Figure(Struct):
    """One line of the table."""

    what: str
    seen: float
    unit: str
    bound: float = 0.0
    """0: there is none."""

    @property
    def holds(self) -> bool:
        return not self.bound or self.seen <= self.bound


class Progress:
    """A bar on a terminal, a line per step elsewhere."""

    def __init__(self, steps: dict[str, float]) -> None:
        """What each is expected to weigh."""
        self._steps = steps
        self._total = sum(steps.values())
        self._before = 0.0
        self._terminal = sys.stderr.isatty()

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        self.at(name, 0)
        yield
        self._before += self._steps[name]
        took = f"{time.monotonic() - began:.1f} s"
        sys.stderr.write(
            f"{self._bar(self._before)}  {name}: {took}\033[K\n" if self._terminal else f"{name}: {took}\n"
        )

    def at(self, name: str, part: float) -> None:
        if self._terminal:
            sys.stderr.write(f"{self._bar(self._before + min(part, 1) * self._steps[name])}  {name}\033[K\r")

    def _bar(self, done: float) -> str:
        share = done / self._total
        return f"[{'#' * round(30 * share):-<30}] {share:4.0%}"


class Bench:
    """The servers, and what was seen of them."""

    def __init__(self, rows: int, redis: RedisServer, postgres: PostgresServer, progress: Progress) -> None:
        self.rows = rows
        self.figures: list[Figure] = []
        self.progress = progress
        self._redis = redis
        self._postgres = postgres
        self._client: Redis = Redis.from_url(redis.url)

    def run(self, directory: Path) -> None:
        asyncio.run(migrate(self._postgres.url))
        with self.progress.step("empty list"), self._serving(directory / "empty") as server:
            self._settle(server)
            empty = self._cost(server)
        with self.progress.step("fill Postgres"):
            self._fill()
        self._client.flushall()
        used = self._client.info("memory")["used_memory"]
        with self._serving(directory / "first") as server:
            with self.progress.step("rebuild"):
                self._rebuild(server)
            self._saw("Redis, per million", (self._client.info("memory")["used_memory"] - used) / self.rows, "MB")
            with self.progress.step("compare"):
                late = [self._lateness(server) for _ in range(50)]
                self._saw("SQL row in force, in the middle of a comparison", max(late), "s", 1)
                self._saw("the same, median", statistics.median(late), "s")
            with self.progress.step("bulk load"):
                self._bulk(server)
            with self.progress.step("full list"):
                self._settle(server)
                full = self._cost(server)
            self._saw("a check, serve and Redis, empty list", empty, "us CPU")
            self._saw("a check, serve and Redis, full list", full, "us CPU", empty * 1.1)
        with self.progress.step("without both"), self._serving(directory / "second", _FAILURE) as server:
            self._without_both(server)

    def _serving(self, directory: Path, failure: str = "") -> AbstractContextManager[Serving]:
        def prepare(jwks: str) -> None:
            (directory / "policy.yaml").write_text(policy(jwks) + failure)

        return serving(_made(directory), self._redis.url, self._postgres.url, prepare=prepare)

    def _settle(self, server: Serving) -> None:
        """Nothing beside what is measured."""
        while not self._rebuilt(server):
            time.sleep(0.1)
        self._client.set(redis_keys.compared(), 0)
        time.sleep(2)

    def _saw(self, what: str, seen: float, unit: str, bound: float = 0.0) -> None:
        self.figures.append(Figure(what, seen, unit, bound))

    def _fill(self) -> None:
        """Past the triggers, which write a history of all that and stamp row by row."""
        with psycopg.connect(self._postgres.url, autocommit=True) as connection:
            query = (
                "SELECT indexdef FROM pg_indexes WHERE tablename = 'revocations' AND indexname != 'revocations_pkey'"
            )
            indexes = [definition for (definition,) in connection.execute(query).fetchall()]
            for definition in indexes:
                connection.execute(f"DROP INDEX {definition.split()[2]}".encode())
            connection.execute("ALTER TABLE revocations DISABLE TRIGGER USER")
            for first in range(0, self.rows, _STEP):
                connection.execute(_MANY, (min(_STEP, self.rows - first),))
                self.progress.at("fill Postgres", 0.7 * first / self.rows)
            connection.execute("ALTER TABLE revocations ENABLE TRIGGER USER")
            for done, definition in enumerate(indexes):
                self.progress.at("fill Postgres", 0.7 + 0.3 * done / len(indexes))
                connection.execute(definition.encode())
            connection.execute("VACUUM ANALYZE revocations")

    def _rebuild(self, server: Serving) -> None:
        began, late = time.monotonic(), []
        while not self._rebuilt(server):
            late.append(self._lateness(server))
            self.progress.at("rebuild", self._client.dbsize() / self.rows)
            time.sleep(0.1)
        (seconds,) = [line["seconds"] for line in server.log if "rebuilt" in line["event"]]
        self._saw("rebuild from Postgres", seconds, "s", 60)
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

    def _cost(self, server: Serving) -> float:
        """Processor microseconds of one whole check, in `serve` and in Redis: the median of several runs."""
        callers, tree = [token(jti=str(uuid.uuid4())) for _ in range(100)], _tree(server)
        with ThreadPoolExecutor(16) as threads:
            return statistics.median(self._tried(server, threads, callers * 10, tree) for _ in range(7))

    def _tried(
        self, server: Serving, threads: ThreadPoolExecutor, calls: Sequence[str], tree: Sequence[psutil.Process]
    ) -> float:
        began = self._spent(tree)
        codes = {answer.status.code for answer in threads.map(server.check, calls)}
        assert codes == {0}, codes
        return (self._spent(tree) - began) / len(calls) * 1e6

    def _spent(self, tree: Sequence[psutil.Process]) -> float:
        used, times = self._client.info("cpu"), [member.cpu_times() for member in tree]
        return float(used["used_cpu_user"] + used["used_cpu_sys"]) + sum(each.user + each.system for each in times)

    def _without_both(self, server: Serving) -> None:
        while not server.metric("tollgate_revocation_known_timestamp_seconds"):
            time.sleep(0.5)
        with psycopg.connect(self._postgres.url) as connection:
            query = "SELECT value FROM revocations WHERE kind = 'token' AND issuer = 'i0' LIMIT 300"
            revoked = [token(jti=value) for (value,) in connection.execute(query).fetchall()]
        good = [token(jti=str(uuid.uuid4())) for _ in range(300)]
        tree = psutil.Process(server.process.pid).children(recursive=True)
        self._saw("worker", max(member.memory_info().rss for member in tree) / 1e6, "MB", 250)
        self._redis.kill()
        self._postgres.kill()
        with ThreadPoolExecutor(64) as callers:  # each waits for Postgres first
            answers = list(callers.map(server.check, [*revoked, *good]))
        passed = sum(answer.status.code == 0 for answer in answers[: len(revoked)])
        refused = sum(answer.status.code != 0 for answer in answers[len(revoked) :])
        self._saw(
            "worker, without Redis and Postgres", max(member.memory_info().rss for member in tree) / 1e6, "MB", 250
        )
        self._saw("supervisor", psutil.Process(server.process.pid).memory_info().rss / 1e6, "MB")
        assert (passed, refused) == (0, 0), f"without both {passed} of 300 revoked pass, {refused} of 300 good do not"


def _tree(server: Serving) -> list[psutil.Process]:
    supervisor = psutil.Process(server.process.pid)
    return [supervisor, *supervisor.children(recursive=True)]


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory


def _print(rows: int, figures: Sequence[Figure]) -> None:
    lines = [f"{rows:,} live revocations | seen | bound |", "--- | --- | ---"]
    for each in figures:
        bound = f"{each.bound:.4g} {each.unit}" if each.bound else ""
        lines.append(f"{each.what} | {each.seen:.3g} {each.unit} | {bound}{'' if each.holds else ' **exceeded**'}")
    sys.stdout.write("\n".join(lines) + "\n")


def main() -> int:
    """Exit status 1: a bound is exceeded."""
    parser = argparse.ArgumentParser(description="How late a revocation is, and what very many of them cost.")
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    weights = {"fill Postgres": 1 + rows / 8e4, "rebuild": 3 + rows / 2e5, "compare": 2, "bulk load": 3}
    weights |= {"empty list": 20, "full list": 20, "without both": 10 + rows / 2e5}
    with (
        tempfile.TemporaryDirectory() as directory,
        running_redis(Path(directory)) as redis,
        running_postgres() as postgres,
    ):
        bench = Bench(rows, redis, postgres, Progress(weights))
        bench.run(Path(directory))
    _print(rows, bench.figures)
    return 0 if all(figure.holds for figure in bench.figures) else 1


if __name__ == "__main__":
    sys.exit(main())
