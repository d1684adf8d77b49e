"""Keeps the copy in Redis equal to Postgres: rows written by anyone, rows committed late, a Redis that lost its data.

Several authorizers run one each; docs/adr/0002-revocation-consistency.md says why that is safe.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import TypeVar

import psycopg
from pydantic import SecretStr
from redis.exceptions import RedisError

from ext_authz.clock import Clock
from ext_authz.db.backoff import Backoff
from ext_authz.db.listen import Notifications, listening
from ext_authz.db.pool import Connection, connect
from ext_authz.observability.metrics import DEPENDENCY_UP, REVOCATION_REBUILDS, REVOCATION_SYNCED, REVOCATIONS
from ext_authz.revocation.change import Change, changed_since, chunks_of_all, clean, count, horizon
from ext_authz.revocation.copy import CHUNK, RevocationCopy, Status

log = logging.getLogger(__name__)

R = TypeVar("R")

CHANNEL = "tollgate_revocations"
"""Every write to the table is notified here (migrations/0001_revocations.sql)."""
TICK = 0.25
"""Longest time until a flushed or replaced Redis is noticed here; checks notice by themselves, at once."""
HOUSEKEEPING = 300.0
"""How often every row is copied anew and old ones are deleted."""


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
    ) -> None:
        """`direct_url`: to listen, where a pooler stands behind `url`."""
        self.synced = asyncio.Event()
        self._url = url.get_secret_value()
        self._direct_url = direct_url or url
        self._copy = copy
        self._clock = clock
        self._poll = poll
        self._horizon = "0"
        self._applied: frozenset[tuple[str, int]] = frozenset()
        self._lineages: dict[tuple[int, str], str] = {}
        self._nonces: dict[int, str] = {}
        self._failures: dict[int, RedisError] = {}
        self._polled_at = self._swept_at = float("-inf")
        self._trouble = ""

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`; outlives every failure of Postgres and of Redis."""
        async with listening(self._direct_url, CHANNEL) as notifications:
            await self._run(notifications, stop)

    async def _run(self, notifications: Notifications, stop: asyncio.Event) -> None:
        backoff = Backoff(stop)
        while not stop.is_set():
            try:
                async with await connect(self._url) as connection:
                    await self._follow(connection, notifications, stop, backoff)
            except (psycopg.Error, OSError) as failure:  # TimeoutError is an OSError
                DEPENDENCY_UP.labels("postgres").set(0)
                log.warning("revocations: postgres does not answer", extra={"error": str(failure)})
            except Exception:
                log.exception("revocations: unexpected failure, starting over")
            await backoff.pause()
            await self._doubt()

    async def _follow(
        self, connection: Connection, notifications: Notifications, stop: asyncio.Event, backoff: Backoff
    ) -> None:
        # A standby may have taken over, whose transactions count differently: start from the first row.
        self._polled_at = self._swept_at = float("-inf")
        notified = False
        while not stop.is_set():
            try:
                await self._round(connection, notified=notified)
                self._report("")
            except RedisError as failure:
                self._report(f"redis does not answer: {failure}")
            backoff.succeeded()
            notified = await notifications.wait(min(TICK, self._poll / 4))

    async def _round(self, connection: Connection, *, notified: bool) -> None:
        behind, self._failures = bool(self._failures), {}
        whole = await self._everywhere(lambda shard: self._make_whole(connection, shard))
        back = behind and not self._failures
        looked = bool(whole) and await self._look(connection, at_once=notified or back)
        for failure in self._failures.values():
            raise failure
        if looked and all(whole):
            REVOCATION_SYNCED.set(self._clock.now())
            self.synced.set()

    async def _everywhere(self, work: Callable[[int], Awaitable[R]]) -> list[R]:
        """In every shard that has not failed in this round: a node that is down costs the others no revocation."""
        done = []
        for shard in self._copy.shards:
            try:
                if shard not in self._failures:
                    done.append(await work(shard))
            except RedisError as failure:
                self._failures[shard] = failure
        return done

    async def _make_whole(self, connection: Connection, shard: int) -> bool:
        """False while a shard is not known to hold everything."""
        found = await self._copy.status(shard)
        return self._is_whole(shard, found) or await self._rebuild(connection, shard, found)

    def _is_whole(self, shard: int, found: Status) -> bool:
        if found.complete and not self._believable(shard, found):
            log.warning("revocations: marker not believed", extra={"detail": f"shard {shard}, {found.eviction}"})
            return False
        return found.complete

    def _believable(self, shard: int, found: Status) -> bool:
        """False where keys can be evicted, and for a primary that was replaced for a while and came back."""
        return found.keeps_keys and self._lineages.setdefault((shard, found.run_id), found.lineage) == found.lineage

    async def _rebuild(self, connection: Connection, shard: int, found: Status) -> bool:
        """Write every row, then the marker; False when anything was lost meanwhile, or somebody else is at it."""
        if not found.keeps_keys:
            await self._copy.distrust(shard)
            raise RedisError(f"maxmemory-policy {found.eviction} can drop revocations: set noeviction")
        nonce = secrets.token_hex(8)
        if not await self._copy.begin(shard, nonce, found, last_nonce=self._nonces.get(shard, "")):
            return False
        self._nonces[shard] = nonce
        self._lineages[shard, found.run_id] = found.lineage
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

    async def _look(self, connection: Connection, *, at_once: bool) -> bool:
        """Bring what is new in Postgres, if it is time to look there."""
        now = self._clock.monotonic()
        # Half of it: the other half is for what the look takes, so that a row is in force in time by polling alone.
        if not (at_once or now - self._polled_at >= self._poll / 2):
            return False
        sweep = now - self._swept_at >= HOUSEKEEPING
        await (self._sweep(connection) if sweep else self._follow_up(connection))
        self._polled_at = now
        REVOCATIONS.set(await count(connection))
        DEPENDENCY_UP.labels("postgres").set(1)
        return True

    async def _sweep(self, connection: Connection) -> None:
        """Everything anew: at the start, after a reconnect, and now and then against what nobody thought of."""
        seen = await horizon(connection)
        async with aclosing(chunks_of_all(connection, CHUNK)) as chunks:
            async for chunk in chunks:
                await self._bring(chunk)
        await clean(connection)
        if not self._failures:
            self._horizon, self._applied = seen, frozenset()
            self._swept_at = self._clock.monotonic()

    async def _follow_up(self, connection: Connection) -> None:
        """What has been written since the last time. The horizon moves only when every shard holds it."""
        seen = await horizon(connection)
        rows = await changed_since(connection, self._horizon)
        await self._bring([row for row in rows if (row.id, row.revision) not in self._applied])
        if not self._failures:
            self._horizon, self._applied = seen, frozenset((row.id, row.revision) for row in rows)

    async def _bring(self, changes: Sequence[Change]) -> None:
        await self._everywhere(lambda shard: self._copy.apply_to(shard, changes))

    async def _doubt(self) -> None:
        """While Postgres is away nothing can be rebuilt, but a marker that cannot be believed still has to go."""
        self._failures = {}
        await self._everywhere(self._doubt_one)
        for failure in self._failures.values():
            self._report(f"redis does not answer: {failure}")

    async def _doubt_one(self, shard: int) -> None:
        found = await self._copy.status(shard)
        if found.complete and not self._is_whole(shard, found):
            await self._copy.distrust(shard)

    def _report(self, trouble: str) -> None:
        """Log when it changes, not four times a second."""
        if trouble and trouble != self._trouble:
            log.error("revocations: the copy in redis is not kept", extra={"error": trouble})
        elif self._trouble and not trouble:
            log.info("revocations: the copy in redis is kept again")
        self._trouble = trouble
