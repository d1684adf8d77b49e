"""Moves the ledger from the Redis streams into Postgres, each event exactly once (by decision id).

An entry is deleted from its stream after the commit that holds it. A worker killed in between leaves it to be read
again, and Postgres knows the decision already. Several workers share the work; while Postgres is away the stream is
the buffer. docs/adr/0004-ledger-exactly-once.md.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from datetime import timedelta

import psycopg
from pydantic import SecretStr
from redis.asyncio import Redis
from redis.exceptions import RedisError

from ext_authz.clock import Clock
from ext_authz.db.backoff import Backoff, pause
from ext_authz.db.pool import Connection, connect
from ext_authz.db.redis_causes import cause_of
from ext_authz.observability.metrics import LEDGER_DEPTH, LEDGER_LAG, USAGE_MOVED
from ext_authz.observability.once import OncePerCause
from ext_authz.usage import ledger
from ext_authz.usage.line import Line, Reject, StreamEntry, parse
from ext_authz.usage.retention import forget_facts, forget_tokens
from ext_authz.usage.stream import LedgerStream

log = logging.getLogger(__name__)

ANSWER = 30.0
"""Longest wait for Postgres to take a batch, in seconds."""
FORGET = 60.0
"""Seconds between two looks for what is kept no longer."""
FORGET_TOKENS = 3600.0
"""The same where facts are kept for ever."""
MEASURE = 1.0
"""Seconds between two looks at depth and lag."""


class UsageWorker:
    """`name` should survive a restart, so that it finds its own unfinished batch at once; two of one name are safe."""

    def __init__(
        self,
        url: SecretStr,
        shards: Sequence[Redis],
        clock: Clock,
        *,
        name: str,
        batch: int,
        adopt: float = 30.0,
        facts_keep: int = 0,
    ) -> None:
        """`shards`: one client per shard, each of the node that holds it. `facts_keep`: seconds; 0 for ever."""
        self._url = url.get_secret_value()
        self._clock = clock
        self._batch = batch
        self._adopt = adopt
        self._facts_keep = facts_keep
        self._streams = [LedgerStream(redis, name, shard) for shard, redis in enumerate(shards)]

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`, then finish the batch in hand; outlives every failure of Postgres and of Redis."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._measure(stop))
            tasks.create_task(self._forget(stop))
            for stream in self._streams:
                tasks.create_task(self._drain(stream, stop))

    async def _drain(self, stream: LedgerStream, stop: asyncio.Event) -> None:
        backoff = Backoff(stop)
        trouble = OncePerCause(log, failing="ledger: not moving", working="ledger: moving again", detail=stream.name)
        while not stop.is_set():
            try:
                async with await connect(self._url) as connection:
                    await self._follow(stream, connection, stop, backoff, trouble)
            except RedisError as failure:
                trouble.failed(f"redis: {cause_of(failure)}")
            except (psycopg.Error, OSError) as failure:  # TimeoutError is an OSError
                trouble.failed(str(failure) or "postgres: no answer in time")
            except Exception:
                log.exception("ledger: unexpected failure, starting over", extra={"detail": stream.name})
            await backoff.pause()

    async def _follow(
        self, stream: LedgerStream, connection: Connection, stop: asyncio.Event, backoff: Backoff, trouble: OncePerCause
    ) -> None:
        await stream.open()
        adopted_at = float("-inf")
        while not stop.is_set():
            if self._clock.monotonic() - adopted_at >= self._adopt / 3:
                await stream.adopt(int(self._adopt * 1000))
                adopted_at = self._clock.monotonic()
            if entries := await stream.read(self._batch):
                await self._move(stream, connection, entries)
            backoff.succeeded()
            trouble.worked()

    async def _move(self, stream: LedgerStream, connection: Connection, entries: Sequence[StreamEntry]) -> None:
        # No fields: somebody deleted the entry behind our back, there is nothing to move.
        parsed = [parse(entry) for entry in entries if entry.fields]
        lines = [self._kept(line) for line in parsed if isinstance(line, Line)]
        rejects = [reject for reject in parsed if isinstance(reject, Reject)]
        async with asyncio.timeout(ANSWER):
            moved = await ledger.write(connection, stream.name, lines, rejects)
        await stream.done(entries)
        self._count(stream, moved, len(entries))

    def _kept(self, line: Line) -> Line:
        """Without facts when it waited here for longer than they are kept."""
        late = self._facts_keep and line.entry.seconds < self._clock.now() - self._facts_keep
        return line.without_facts() if late else line

    def _count(self, stream: LedgerStream, moved: ledger.Moved, delivered: int) -> None:
        USAGE_MOVED.labels("inserted").inc(moved.inserted)
        USAGE_MOVED.labels("duplicate").inc(moved.duplicate)
        USAGE_MOVED.labels("broken").inc(moved.broken)
        if moved.broken:
            log.error("ledger: events kept in usage_rejects", extra={"detail": stream.name, "broken": moved.broken})
        log.debug("ledger: moved", extra={"events": delivered, "duplicates": moved.duplicate})

    async def _forget(self, stop: asyncio.Event) -> None:
        keep = timedelta(seconds=self._facts_keep) if self._facts_keep else None
        while not stop.is_set():
            try:
                async with await connect(self._url) as connection:
                    forgotten = await forget_facts(connection, keep) if keep else 0
                    await forget_tokens(connection, keep)
                log.debug("ledger: facts forgotten", extra={"events": forgotten})
            except (psycopg.Error, OSError) as failure:
                log.warning("ledger: facts not forgotten", extra={"error": str(failure)})
            await pause(stop, FORGET if keep else FORGET_TOKENS)

    async def _measure(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            try:
                LEDGER_DEPTH.set(sum([await stream.depth() for stream in self._streams]))
                LEDGER_LAG.set(max([await stream.age() for stream in self._streams]))
            except RedisError as failure:
                log.debug("ledger: not measured", extra={"error": str(failure)})
            await pause(stop, MEASURE)
