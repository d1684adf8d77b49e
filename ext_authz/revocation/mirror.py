"""Keeps the copy in Redis equal to Postgres: rows written by anyone, rows committed late, a Redis that lost its data.

Several authorizers run one each; docs/adr/0002-revocation-consistency.md says why that is safe. Per shard three loops
run side by side, so that none delays another: `_watch` checks Redis, `_follow` writes what has changed in Postgres (or
everything, where that is missing), and a `Comparison` goes through all rows slowly.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing

from pydantic import SecretStr
from redis.exceptions import RedisError

from ext_authz.clock import Clock
from ext_authz.db.backoff import Backoff, pause
from ext_authz.db.causes import cause_of, redis_cause
from ext_authz.db.positions import Position
from ext_authz.db.postgres import Connection, connect, listening
from ext_authz.observability.metrics import DEPENDENCY_UP, REVOCATION_REBUILDS, REVOCATION_SYNCED
from ext_authz.observability.once import OncePerCause
from ext_authz.revocation.copy import RevocationCopy, Status
from ext_authz.revocation.feed import BLOCKS, StartOver, attempt, changes, chunks_since, ensure_readable
from ext_authz.revocation.rebuild import SHARE, Comparison, rebuild

log = logging.getLogger(__name__)

CHANNEL = "tollgate_revocations"
"""Every write to the table notifies it (migrations/0001_revocations.sql)."""
TICK = 0.25
"""Longest time in seconds until a flushed or replaced Redis is noticed here; checks notice at once."""


class Mirror:
    """`run` it for as long as checks are answered. `synced` is set once Redis holds all of Postgres."""

    def __init__(
        self,
        url: SecretStr,
        copies: Sequence[RevocationCopy],
        clock: Clock,
        *,
        poll: float,
        direct_url: SecretStr | None = None,
        blocks: int = BLOCKS,
    ) -> None:
        """`direct_url`: to listen, where a pooler stands behind `url`. `blocks`: of the table, read at a time."""
        self.synced = asyncio.Event()
        self.clock = clock
        self.url = url.get_secret_value()
        self.poll = poll
        self.blocks = blocks
        self._direct_url = direct_url or url
        self._followed: dict[int, float] = {}
        self._shards = [_Shard(self, copy, share=SHARE / len(copies)) for copy in copies]

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`; survives every failure of Postgres and of Redis."""
        async with listening(self._direct_url, CHANNEL) as notified, asyncio.TaskGroup() as tasks:
            for shard in self._shards:
                tasks.create_task(shard.run(stop))
            while not stop.is_set():
                await pause(notified, TICK)
                if notified.is_set() or stop.is_set():
                    notified.clear()
                    for shard in self._shards:
                        shard.changed.set()

    def followed(self, shard: int) -> None:
        """A shard holds all of Postgres right now."""
        self._followed[shard] = self.clock.now()
        if len(self._followed) == len(self._shards):
            REVOCATION_SYNCED.set(min(self._followed.values()))
            self.synced.set()


class _Shard:
    """The copy in one shard."""

    def __init__(self, mirror: Mirror, copy: RevocationCopy, *, share: float) -> None:
        self.changed = asyncio.Event()
        """Something is to be copied: do not wait for the next poll."""
        self._mirror = mirror
        self._copy = copy
        self._comparison = Comparison(copy, mirror.clock, blocks=mirror.blocks, share=share)
        self._nonce = ""
        self._ahead: Position | None = None
        """Up to where rows were written while a bulk load before it still runs."""
        self._loads: set[asyncio.Task[None]] = set()
        self._detail = f"shard {copy.shard}"
        failing, working = "revocations: postgres fails", "revocations: postgres works again"
        self._postgres = OncePerCause(log, failing=failing, working=working, detail=self._detail)
        failing, working = "revocations: the copy in redis is not kept", "revocations: the copy in redis is kept again"
        self._redis = OncePerCause(log, failing=failing, working=working, detail=self._detail)

    async def run(self, stop: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch(stop))
            tasks.create_task(self._over_postgres(self._follow, stop))
            tasks.create_task(self._over_postgres(self._comparison.run, stop))
        for load in self._loads:
            load.cancel()
        await asyncio.gather(*self._loads, return_exceptions=True)

    async def _over_postgres(
        self, work: Callable[[Connection, asyncio.Event, Backoff], Awaitable[None]], stop: asyncio.Event
    ) -> None:
        backoff = Backoff(stop, self._postgres.worked)
        while not stop.is_set():
            await attempt(self._mirror.url, lambda opened: work(opened, stop, backoff), failed=self._postgres_failed)
            await backoff.pause()

    def _postgres_failed(self, cause: str) -> None:
        DEPENDENCY_UP.labels("postgres").set(0)
        self._postgres.failed(cause)

    # Redis alone

    async def _watch(self, stop: asyncio.Event) -> None:
        """While Postgres is down nothing can be filled, but a marker that is not valid still has to go."""
        while not stop.is_set():
            try:
                found = await self._copy.status()
                if found.marker and found.position is None:
                    detail = f"{self._detail}, {found.eviction}"
                    log.warning("revocations: marker removed, it is not valid", extra={"detail": detail})
                    await self._copy.distrust()
                if found.position is None:
                    self.changed.set()
            except RedisError as failure:
                self._redis.failed(redis_cause(failure))
            await pause(stop, min(TICK, self._mirror.poll / 4))

    # What has changed

    async def _follow(self, connection: Connection, stop: asyncio.Event, backoff: Backoff) -> None:
        while not stop.is_set():
            wait = self._mirror.poll / 2
            try:
                await self._round(connection)
                self._redis.worked()
            except StartOver:
                wait = 0
            except RedisError as failure:
                wait = TICK
                self._redis.failed(redis_cause(failure))
            backoff.succeeded()
            await pause(self.changed, wait)
            self.changed.clear()

    async def _round(self, connection: Connection) -> None:
        found = await self._copy.status()
        if found.position is None:
            self._ahead = None
            done = await self._rebuilt(connection, found)
        else:
            done = await self._updated(connection, found, self._ahead or found.position)
        if done:
            DEPENDENCY_UP.labels("postgres").set(1)
            self._mirror.followed(self._copy.shard)

    async def _updated(self, connection: Connection, found: Status, since: Position) -> bool:
        """Write what has changed; False while that is incomplete, or when Postgres was restored or replaced."""
        recent = await changes(connection, since)
        if not since.precedes(recent.position):
            extra = {"detail": self._detail}
            log.warning("revocations: postgres has another history than before, starting over", extra=extra)
            await self._copy.distrust()
            return False
        if not recent.whole:
            self._loads.add(asyncio.create_task(self._load(since), name="bulk load of revocations"))
        if self._load_failed():
            self._ahead = None
            return False
        self._ahead = recent.position if self._loads else None
        followed = "" if self._loads else f"{found.lineage} {recent.position}"
        await self._copy.write(recent.chunk, followed=followed)
        return not self._loads

    async def _load(self, since: Position) -> None:
        """In a task and over a connection of its own: a single row that comes later does not wait for a bulk load."""
        async with await connect(self._mirror.url) as connection, aclosing(chunks_since(connection, since)) as chunks:
            async for chunk in chunks:
                await self._copy.write(chunk)

    def _load_failed(self) -> bool:
        ended = {load for load in self._loads if load.done()}
        self._loads -= ended
        failures = [failure for load in ended if (failure := load.exception())]
        for failure in failures:
            extra = {"detail": self._detail, "error": cause_of(failure)}
            log.warning("revocations: a bulk load failed, starting over", extra=extra)
        return bool(failures)

    async def _rebuilt(self, connection: Connection, found: Status) -> bool:
        """False when anything was lost meanwhile, or another process rebuilds."""
        if not found.keeps_keys:
            raise RedisError(f"maxmemory-policy {found.eviction} can drop revocations: set noeviction")
        await ensure_readable(connection)
        nonce, started = secrets.token_hex(8), self._mirror.clock.monotonic()
        if not await self._copy.begin(nonce, found, last_nonce=self._nonce):
            return False
        self._nonce = nonce
        if not await rebuild(connection, self._copy, found, nonce, self._mirror.blocks):
            return False
        REVOCATION_REBUILDS.inc()
        seconds = round(self._mirror.clock.monotonic() - started, 3)
        extra = {"detail": self._detail, "seconds": seconds}
        log.warning("revocations: redis was incomplete, rebuilt", extra=extra)
        return True
