"""Moves the ledger from the Redis streams into Postgres, each event exactly once (by decision id).

An entry is deleted from its stream after its row was committed. If a worker is killed in between, the entry is read
again, and Postgres has the decision already. Several workers share the work; while Postgres is not available, the
stream is the buffer. docs/adr/0004-ledger-exactly-once.md.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from functools import partial

import psycopg
from psycopg.errors import QueryCanceled
from pydantic import SecretStr
from redis.asyncio import Redis
from redis.exceptions import RedisError

from ext_authz.clock import Clock
from ext_authz.db.backoff import Backoff, pause
from ext_authz.db.causes import postgres_cause, redis_cause
from ext_authz.db.postgres import Connection, connect
from ext_authz.db.tables import ensure_usable
from ext_authz.errors import Unavailable
from ext_authz.ledger import postgres
from ext_authz.ledger.metrics import LEDGER_LAG, LEDGER_MOVED, LEDGER_PENDING
from ext_authz.ledger.stream import LedgerStream, Reject, Row, StreamEntry, parse
from ext_authz.observability.metrics import DEPENDENCY_UP
from ext_authz.observability.once import OncePerCause
from ext_authz.restarts import GivenUp, restarting

log = logging.getLogger(__name__)

Work = Callable[[asyncio.Event], Awaitable[None]]
"""Runs until the event."""

TRY = 5.0
"""Seconds between two tests whether Postgres would take events, also when there are none."""
WRITE_TIMEOUT = 30.0
"""Of one batch, in seconds."""
FORGET = 60.0
"""Seconds between two deletions of old records and tokens."""
FORGET_TOKENS = 3600.0
"""The same if records are kept for ever."""
GATHER = 0.2
"""Seconds from one batch to the next while events come one by one. Moved each by itself, an event costs 3 ms of
processors that the calls need too; together with others a fraction of that. The first after a pause goes at once."""
MEASURE = 1.0
"""Seconds between two measurements of depth and lag."""


class UsageWorker:
    """`name` should stay the same after a restart, so that the worker continues its unfinished batch at once; two
    workers of one name are safe."""

    def __init__(
        self,
        url: SecretStr,
        shards: Sequence[Redis],
        clock: Clock,
        *,
        name: str,
        batch: int,
        adopt: float = 30.0,
        records_keep: int = 0,
        works: Mapping[str, Work] | None = None,
    ) -> None:
        """`shards`: one client per shard, each of the node that holds it. `records_keep`: seconds; 0 for ever. `works`:
        what runs beside it, by name."""
        self._url = url.get_secret_value()
        self._clock = clock
        self._batch = batch
        self._adopt = adopt
        self._records_keep = records_keep
        self._works = works or {}
        self._streams = [LedgerStream(redis, name, shard) for shard, redis in enumerate(shards)]
        self._sizes = {stream.name: batch for stream in self._streams}
        self._failures = {stream.name: ("postgres", "not tried yet") for stream in self._streams}

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`, then finish the current batch; continues after every failure of Postgres and of Redis.

        Raises:
            GivenUp: an unexpected failure, again and again after restarts.
        """
        works: dict[str, Work] = {"measure": self._measure, "forget": self._forget, **self._works}
        works |= {f"drain {stream.name}": partial(self._drain, stream) for stream in self._streams}
        async with asyncio.TaskGroup() as tasks:
            kept = [tasks.create_task(self._keep(name, work, stop)) for name, work in works.items()]
        for reason in filter(None, [task.result() for task in kept]):
            raise reason

    async def _keep(self, name: str, work: Work, stop: asyncio.Event) -> GivenUp | None:
        try:
            await restarting(name, partial(work, stop), stop)
        except GivenUp as reason:
            stop.set()  # the others finish their current batch
            return reason
        return None

    async def _drain(self, stream: LedgerStream, stop: asyncio.Event) -> None:
        backoff = Backoff(stop)
        outage = OncePerCause(log, failing="ledger: not moving", working="ledger: moving again", detail=stream.name)
        while not stop.is_set():
            try:
                async with await connect(self._url) as connection:
                    await self._follow(stream, connection, stop, backoff, outage)
            except RedisError as failure:
                self._report(stream, outage, ("redis", redis_cause(failure)))
            except (psycopg.Error, Unavailable, OSError) as failure:  # TimeoutError is an OSError
                self._report(stream, outage, ("postgres", postgres_cause(failure)))
            await backoff.pause()

    async def _follow(
        self, stream: LedgerStream, connection: Connection, stop: asyncio.Event, backoff: Backoff, outage: OncePerCause
    ) -> None:
        await stream.open()
        adopted_at = tried_at = float("-inf")
        while not stop.is_set():
            now = self._clock.monotonic()
            if now - tried_at >= TRY:
                await ensure_usable(connection, postgres.NEEDS, postgres.try_statements)
                tried_at = now
            if now - adopted_at >= self._adopt / 3:
                await stream.adopt(int(self._adopt * 1000))
                adopted_at = now
            size = self._sizes[stream.name]
            if entries := await stream.read(size):
                await self._move(stream, connection, entries)
            backoff.succeeded()
            self._report(stream, outage)
            if 0 < len(entries) < size:
                await pause(stop, GATHER)

    def _report(self, stream: LedgerStream, outage: OncePerCause, failure: tuple[str, str] | None = None) -> None:
        """`failure`: the dependency and the cause; None if events are moved."""
        if failure:
            self._failures[stream.name] = failure
            outage.failed(": ".join(failure))
        else:
            self._failures.pop(stream.name, None)
            outage.worked()
        for dependency in ("postgres", "redis"):
            DEPENDENCY_UP.labels(dependency).set(dependency not in self.causes())

    def causes(self) -> dict[str, str]:
        """By dependency, why events cannot be moved now; empty if they can. Thread-safe."""
        return dict(list(self._failures.values()))

    async def _move(self, stream: LedgerStream, connection: Connection, entries: Sequence[StreamEntry]) -> None:
        # No fields: the entry was deleted by somebody else, there is nothing to move.
        parsed = [parse(entry) for entry in entries if entry.fields]
        rows = [self._kept(row) for row in parsed if isinstance(row, Row)]
        rejects = [reject for reject in parsed if isinstance(reject, Reject)]
        try:
            async with asyncio.timeout(WRITE_TIMEOUT):
                moved = await postgres.write(connection, stream.name, rows, rejects)
        except (QueryCanceled, TimeoutError):
            # A batch that took too long (for statement_timeout of the role, say) would take too long again.
            self._sizes[stream.name] = max(1, len(entries) // 2)
            raise
        self._sizes[stream.name] = min(self._batch, 2 * self._sizes[stream.name])
        await stream.done(entries)
        self._count(stream, moved, len(entries))

    def _kept(self, row: Row) -> Row:
        """Without the record if it waited in the stream for longer than records are kept."""
        late = self._records_keep and row.entry.seconds < self._clock.now() - self._records_keep
        return row.without_record() if late else row

    def _count(self, stream: LedgerStream, moved: postgres.Moved, delivered: int) -> None:
        LEDGER_MOVED.labels("inserted").inc(moved.inserted)
        LEDGER_MOVED.labels("duplicate").inc(moved.duplicate)
        LEDGER_MOVED.labels("broken").inc(moved.broken)
        if moved.broken:
            log.error("ledger: events kept in usage_rejects", extra={"detail": stream.name, "broken": moved.broken})
        log.debug("ledger: moved", extra={"events": delivered, "duplicates": moved.duplicate})

    async def _forget(self, stop: asyncio.Event) -> None:
        keep = timedelta(seconds=self._records_keep) if self._records_keep else None
        outage = OncePerCause(log, failing="ledger: not deleting", working="ledger: deleting again")
        while not stop.is_set():
            try:
                async with await connect(self._url) as connection:
                    forgotten = await postgres.forget_records(connection, keep) if keep else 0
                    await postgres.forget_tokens(connection, keep)
                log.debug("ledger: old records deleted", extra={"events": forgotten})
                outage.worked()
            except (psycopg.Error, OSError) as failure:
                outage.failed(postgres_cause(failure))
            await pause(stop, FORGET if keep else FORGET_TOKENS)

    async def _measure(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            try:
                LEDGER_PENDING.set(sum([await stream.depth() for stream in self._streams]))
                LEDGER_LAG.set(max([await stream.age() for stream in self._streams]))
            except RedisError as failure:
                log.debug("ledger: not measured", extra={"error": str(failure)})
            await pause(stop, MEASURE)
