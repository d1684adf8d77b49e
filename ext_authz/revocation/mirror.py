"""Keeps the copy in Redis equal to Postgres: rows written by anyone, rows committed late, a Redis that lost its data.

Several authorizers run one each; docs/adr/0002-revocation-consistency.md says why that is safe.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from contextlib import aclosing

import psycopg
from pydantic import SecretStr
from redis.exceptions import RedisError

from ext_authz.clock import Clock
from ext_authz.db.backoff import Backoff
from ext_authz.db.pool import Connection, connect
from ext_authz.observability.metrics import DEPENDENCY_UP, REVOCATION_REBUILDS, REVOCATION_SYNCED, REVOCATIONS
from ext_authz.revocation.change import ANSWER, changed_since, chunks_of_all, clean, count, horizon
from ext_authz.revocation.copy import CHUNK, RevocationCopy, Status

log = logging.getLogger(__name__)

TICK = 0.25
"""Longest time until a flushed or replaced Redis is noticed here; checks notice by themselves, at once."""
HOUSEKEEPING = 300.0
"""How often every row is copied anew and old ones are deleted."""


class Mirror:
    """`run` it for as long as checks are answered. `synced` is set once Redis holds all of Postgres."""

    def __init__(self, url: SecretStr, copy: RevocationCopy, clock: Clock, *, poll: float) -> None:
        self.synced = asyncio.Event()
        self._url = url.get_secret_value()
        self._copy = copy
        self._clock = clock
        self._poll = poll
        self._horizon = "0"
        self._applied: frozenset[tuple[str, int]] = frozenset()
        self._lineages: dict[str, str] = {}
        self._nonce = ""
        self._polled_at = self._swept_at = float("-inf")
        self._trouble = ""

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`; outlives every failure of Postgres and of Redis."""
        backoff = Backoff(stop)
        while not stop.is_set():
            try:
                async with await connect(self._url) as connection:
                    await self._follow(connection, stop, backoff)
            except (psycopg.Error, OSError) as failure:  # TimeoutError is an OSError
                DEPENDENCY_UP.labels("postgres").set(0)
                log.warning("revocations: postgres does not answer", extra={"error": str(failure)})
            except Exception:
                log.exception("revocations: unexpected failure, starting over")
            await backoff.pause()
            await self._doubt()

    async def _follow(self, connection: Connection, stop: asyncio.Event, backoff: Backoff) -> None:
        async with asyncio.timeout(ANSWER):
            await connection.execute("LISTEN tollgate_revocations")
        # A standby may have taken over, whose transactions count differently: start from the first row.
        self._swept_at = float("-inf")
        notified = False
        while not stop.is_set():
            try:
                await self._round(connection, notified=notified)
                self._report("")
            except RedisError as failure:
                self._report(f"redis does not answer: {failure}")
            backoff.succeeded()
            notified = await self._heard(connection)

    async def _heard(self, connection: Connection) -> bool:
        """Wait for a word from Postgres, at most a tick."""
        heard = [True async for _ in connection.notifies(timeout=min(TICK, self._poll), stop_after=1)]
        return bool(heard)

    async def _round(self, connection: Connection, *, notified: bool) -> None:
        wanting = await self._wanting()
        rebuilt = [await self._rebuild(connection, shard, found) for shard, found in wanting]
        now = self._clock.monotonic()
        sweep = now - self._swept_at >= HOUSEKEEPING
        if not (sweep or notified or now - self._polled_at >= self._poll):
            return
        await (self._sweep(connection) if sweep else self._follow_up(connection))
        self._polled_at = now
        REVOCATIONS.set(await count(connection))
        DEPENDENCY_UP.labels("postgres").set(1)
        if all(rebuilt):
            REVOCATION_SYNCED.set(self._clock.now())
            self.synced.set()

    async def _wanting(self) -> list[tuple[int, Status]]:
        """The shards that are not known to hold everything; takes markers away that cannot be believed."""
        wanting = []
        for shard in self._copy.shards:
            found = await self._copy.status(shard)
            if found.complete and self._believable(found):
                continue
            if found.complete:
                log.warning("revocations: marker not believed", extra={"detail": f"shard {shard}, {found.eviction}"})
            wanting.append((shard, found))
        return wanting

    def _believable(self, found: Status) -> bool:
        """False where keys can be evicted, and for a primary that was replaced for a while and came back."""
        return found.keeps_keys and self._lineages.setdefault(found.run_id, found.lineage) == found.lineage

    async def _rebuild(self, connection: Connection, shard: int, found: Status) -> bool:
        """Write every row, then the marker; False when anything was lost meanwhile, or somebody else is at it."""
        if not found.keeps_keys:
            await self._copy.distrust(shard)
            raise RedisError(f"maxmemory-policy {found.eviction} can drop revocations: set noeviction")
        nonce = secrets.token_hex(8)
        if not await self._copy.begin(shard, nonce, found, last_nonce=self._nonce):
            return False
        self._nonce = nonce
        self._lineages[found.run_id] = found.lineage
        started = self._clock.monotonic()
        async with aclosing(chunks_of_all(connection, CHUNK)) as chunks:
            async for chunk in chunks:
                if not await self._copy.fill(shard, nonce, chunk):
                    return False
        if not await self._copy.finish(shard, nonce, found):
            return False
        REVOCATION_REBUILDS.inc()
        seconds = round(self._clock.monotonic() - started, 3)
        log.warning(
            "revocations: redis was incomplete, rebuilt", extra={"detail": f"shard {shard}", "seconds": seconds}
        )
        return True

    async def _sweep(self, connection: Connection) -> None:
        """Everything anew: at the start, after a reconnect, and now and then against what nobody thought of."""
        seen = await horizon(connection)
        async with aclosing(chunks_of_all(connection, CHUNK)) as chunks:
            async for chunk in chunks:
                await self._copy.apply(chunk)
        self._horizon, self._applied = seen, frozenset()
        await clean(connection)
        self._swept_at = self._clock.monotonic()

    async def _follow_up(self, connection: Connection) -> None:
        """What has been written since the last time. The horizon moves only when Redis holds it."""
        seen = await horizon(connection)
        rows = await changed_since(connection, self._horizon)
        await self._copy.apply([row for row in rows if (row.id, row.revision) not in self._applied])
        self._horizon, self._applied = seen, frozenset((row.id, row.revision) for row in rows)

    async def _doubt(self) -> None:
        """While Postgres is away nothing can be rebuilt, but a marker that cannot be believed still has to go."""
        try:
            for shard, found in await self._wanting():
                if found.complete:
                    await self._copy.distrust(shard)
        except RedisError as failure:
            self._report(f"redis does not answer: {failure}")

    def _report(self, trouble: str) -> None:
        """Log when it changes, not four times a second."""
        if trouble and trouble != self._trouble:
            log.error("revocations: the copy in redis is not kept", extra={"error": trouble})
        elif self._trouble and not trouble:
            log.info("revocations: the copy in redis is kept again")
        self._trouble = trouble
