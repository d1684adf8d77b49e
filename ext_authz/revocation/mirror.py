"""Keeps the copy in Redis equal to Postgres: rows written by anyone, rows committed late, a Redis that lost its data.

Several authorizers run one each; docs/adr/0002-revocation-consistency.md says why that is safe. Per shard three things
go on side by side, so that none keeps another waiting: `_watch` looks at Redis, `_follow` brings what is new in
Postgres (or everything, where that is missing), `_compare` goes through all rows slowly.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from contextlib import aclosing

import psycopg
from pydantic import SecretStr
from redis.exceptions import RedisError

from ext_authz.clock import Clock
from ext_authz.db.backoff import Backoff, pause
from ext_authz.db.causes import postgres_cause, redis_cause
from ext_authz.db.postgres import Connection, Notifications, connect, listening
from ext_authz.errors import Unavailable
from ext_authz.observability.metrics import DEPENDENCY_UP, REVOCATION_REBUILDS, REVOCATION_SYNCED, REVOCATIONS
from ext_authz.observability.once import OncePerCause
from ext_authz.revocation.change import BLOCKS, Position, TableRewritten, changes, chunks_since, ensure_readable
from ext_authz.revocation.copy import RevocationCopy, Status
from ext_authz.revocation.rebuild import Comparison, NonceLost, rebuild

log = logging.getLogger(__name__)

CHANNEL = "tollgate_revocations"
"""Every write to the table is notified here (migrations/0001_revocations.sql)."""
TICK = 0.25
"""Longest time until a flushed or replaced Redis is noticed here; checks notice by themselves, at once."""
COMPARE_EVERY = 300.0
"""Seconds from one comparison of all rows to the next, unless it takes longer."""
COMPARE_LOOK = 5.0
"""How often to see whether it is time, or whether who does it has gone."""


class Mirror:
    """`run` it for as long as checks are answered. `synced` is set once Redis holds all of Postgres."""

    def __init__(
        self,
        url: SecretStr,
        copy: RevocationCopy,
        clock: Clock,
        *,
        poll: float,
        direct_url: SecretStr | None = None,
        blocks: int = BLOCKS,
    ) -> None:
        """`direct_url`: to listen, where a pooler stands behind `url`. `blocks`: of the table, read at a time."""
        self.synced = asyncio.Event()
        self._direct_url = direct_url or url
        self._clock = clock
        self._followed: dict[int, float] = {}
        self._shards = [_Shard(url.get_secret_value(), copy, shard, self, clock, poll, blocks) for shard in copy.shards]

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`; outlives every failure of Postgres and of Redis."""
        async with listening(self._direct_url, CHANNEL) as notifications, asyncio.TaskGroup() as tasks:
            for shard in self._shards:
                tasks.create_task(shard.run(stop), name=f"revocations, shard {shard.number}")
            while not stop.is_set():
                if await notifications.wait(TICK):
                    self._hear()
            self._hear()

    def _hear(self) -> None:
        for shard in self._shards:
            shard.news.hear()

    def followed(self, shard: int) -> None:
        """A shard holds all of Postgres right now."""
        self._followed[shard] = self._clock.now()
        if len(self._followed) == len(self._shards):
            REVOCATION_SYNCED.set(min(self._followed.values()))
            self.synced.set()


class _Shard:
    """One shard's copy."""

    def __init__(
        self, url: str, copy: RevocationCopy, number: int, mirror: Mirror, clock: Clock, poll: float, blocks: int
    ) -> None:
        self.number = number
        self.news = Notifications()
        self._url = url
        self._copy = copy
        self._mirror = mirror
        self._clock = clock
        self._poll = poll
        self._blocks = blocks
        self._name = f"by {secrets.token_hex(8)}"
        self._nonce = ""
        self._ahead: Position | None = None
        """Up to where rows were brought while a bulk load before it still goes on."""
        self._loads: set[asyncio.Task[None]] = set()
        self._trouble = ""
        failing, working = "revocations: postgres fails", "revocations: postgres works again"
        self._postgres = OncePerCause(log, failing=failing, working=working, detail=self._detail())

    async def run(self, stop: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch(stop))
            tasks.create_task(self._over_postgres(self._follow, stop))
            tasks.create_task(self._over_postgres(self._compare, stop))
        for load in self._loads:
            load.cancel()
        await asyncio.gather(*self._loads, return_exceptions=True)

    async def _over_postgres(
        self, work: Callable[[Connection, asyncio.Event, Backoff], Awaitable[None]], stop: asyncio.Event
    ) -> None:
        backoff = Backoff(stop, self._postgres.worked)
        while not stop.is_set():
            try:
                async with await connect(self._url) as connection:
                    await ensure_readable(connection)
                    await work(connection, stop, backoff)
            except (psycopg.Error, Unavailable, OSError) as failure:  # TimeoutError is an OSError
                DEPENDENCY_UP.labels("postgres").set(0)
                self._postgres.failed(postgres_cause(failure))
            except Exception:
                log.exception("revocations: unexpected failure, starting over")
            await backoff.pause()

    # Redis alone

    async def _watch(self, stop: asyncio.Event) -> None:
        """While Postgres is away nothing can be filled, but a marker that cannot be believed still has to go."""
        while not stop.is_set():
            try:
                found = await self._copy.status(self.number)
                if found.complete and found.position is None:
                    log.warning("revocations: marker not believed", extra={"detail": self._detail(found.eviction)})
                    await self._copy.distrust(self.number)
                if found.position is None:
                    self.news.hear()
            except RedisError as failure:
                self._report(f"redis cannot be used: {redis_cause(failure)}")
            await pause(stop, min(TICK, self._poll / 4))

    # What is new

    async def _follow(self, connection: Connection, stop: asyncio.Event, backoff: Backoff) -> None:
        while not stop.is_set():
            wait = self._poll / 2
            try:
                await self._round(connection)
                self._report("")
            except (NonceLost, TableRewritten):
                wait = 0
            except RedisError as failure:
                wait = TICK
                self._report(f"redis cannot be used: {redis_cause(failure)}")
            backoff.succeeded()
            await self.news.wait(wait)

    async def _round(self, connection: Connection) -> None:
        found = await self._copy.status(self.number)
        if found.position is None:
            self._ahead = None
            if not await self._rebuilt(connection, found):
                return
        elif not await self._brought(connection, found, self._ahead or found.position):
            return
        DEPENDENCY_UP.labels("postgres").set(1)
        self._mirror.followed(self.number)

    async def _brought(self, connection: Connection, found: Status, since: Position) -> bool:
        """Bring what has been written since then; False when Postgres is another one, or not where it was."""
        recent = await changes(connection, since)
        if not since.precedes(recent.position):
            log.warning("revocations: postgres has another history, starting over", extra={"detail": self._detail()})
            await self._copy.distrust(self.number)
            return False
        if not recent.whole:
            self._loads.add(asyncio.create_task(self._load(since), name="bulk load of revocations"))
        if self._load_failed():
            self._ahead = None
            return False
        self._ahead = recent.position if self._loads else None
        followed = "" if self._loads else f"{found.lineage} {recent.position}"
        await self._copy.write(self.number, recent.chunk, followed=followed)
        return not self._loads

    async def _load(self, since: Position) -> None:
        """Very many rows at once, by the side: a single one that comes later does not wait for them."""
        async with await connect(self._url) as connection, aclosing(chunks_since(connection, since)) as chunks:
            async for chunk in chunks:
                await self._copy.write(self.number, chunk)

    def _load_failed(self) -> bool:
        ended = {load for load in self._loads if load.done()}
        self._loads -= ended
        failures = [failure for load in ended if (failure := load.exception())]
        for failure in failures:
            log.warning("revocations: a bulk load failed, starting over", extra={"error": str(failure)})
        return bool(failures)

    async def _rebuilt(self, connection: Connection, found: Status) -> bool:
        """False when anything was lost meanwhile, or somebody else is at it."""
        if not found.keeps_keys:
            raise RedisError(f"maxmemory-policy {found.eviction} can drop revocations: set noeviction")
        await ensure_readable(connection)
        nonce, started = secrets.token_hex(8), self._clock.monotonic()
        if not await self._copy.begin(self.number, nonce, found, last_nonce=self._nonce):
            return False
        self._nonce = nonce
        if not await rebuild(connection, self._copy, self.number, found, nonce, self._blocks):
            return False
        REVOCATION_REBUILDS.inc()
        seconds = round(self._clock.monotonic() - started, 3)
        log.warning("revocations: redis was incomplete, rebuilt", extra={"detail": self._detail(), "seconds": seconds})
        return True

    # All rows, slowly

    async def _compare(self, connection: Connection, stop: asyncio.Event, backoff: Backoff) -> None:
        comparison = Comparison(
            connection, self._copy, self.number, name=self._name, clock=self._clock, size=self._blocks
        )
        while not stop.is_set():
            try:
                await self._compared(comparison, stop)
                backoff.succeeded()
            except (RedisError, TableRewritten):  # `_follow` says so
                pass
            await pause(stop, COMPARE_LOOK)

    async def _compared(self, comparison: Comparison, stop: asyncio.Event) -> None:
        """If it is time, and nobody else does it."""
        in_force = await self._copy.claim(self.number, self._name)
        if in_force is None:
            began = self._clock.monotonic()
            in_force = await comparison.run(stop)
            if in_force is None:
                return
            left = COMPARE_EVERY - (self._clock.monotonic() - began)
            await self._copy.compared(self.number, in_force, left)
        if in_force >= 0:
            REVOCATIONS.set(in_force)

    def _detail(self, more: str = "") -> str:
        return f"shard {self.number}" + (f", {more}" if more else "")

    def _report(self, trouble: str) -> None:
        """Log when it changes, not four times a second."""
        if trouble and trouble != self._trouble:
            log.error("revocations: the copy in redis is not kept", extra={"error": trouble})
        elif self._trouble and not trouble:
            log.info("revocations: the copy in redis is kept again")
        self._trouble = trouble
