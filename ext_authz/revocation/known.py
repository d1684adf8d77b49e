"""The revocations that a worker knows by itself, for while neither Redis nor Postgres can be asked.

Only for policies that go on without Postgres (`failure: {postgres: local}` or `allow`): each worker then follows the
table with a connection of its own. What was revoked between its last look and the end of Postgres it does not know;
`local` bounds how long that may matter.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Sequence
from contextlib import aclosing

import psycopg
from pydantic import SecretStr

from ext_authz.clock import Clock
from ext_authz.db.backoff import Backoff, pause
from ext_authz.db.pool import Connection, connect
from ext_authz.revocation.change import Change, changed_since, chunks_of_all, horizon
from ext_authz.revocation.copy import CHUNK
from ext_authz.revocation.entry import Kind, first_hit

log = logging.getLogger(__name__)

MAX_SEEN = 10_000
ANEW = 300.0
"""Seconds after which every row is read again, so that what has expired is forgotten."""


class KnownRevocations:
    """Belongs to one event loop."""

    def __init__(self, url: SecretStr, clock: Clock, *, poll: float) -> None:
        self._url = url.get_secret_value()
        self._clock = clock
        self._poll = poll
        self._values: dict[str, int] = {}
        self._seen: dict[str, Kind] = {}
        """Tokens that Redis refused and that the last look at Postgres may have missed."""
        self._whole_at = -math.inf
        self._up = False
        self._stop = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Follow Postgres from now on; more than once is once."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="known revocations")

    async def stop(self) -> None:
        self._stop.set()
        if self._task:
            await self._task

    def lost(self) -> dict[str, float | None]:
        """Whether Postgres answers, if anybody asked to follow it: None, or since when nothing new was heard."""
        return {"postgres": None if self._up else self._whole_at} if self._task else {}

    def whole_at(self) -> float:
        """Monotonic time of the last moment at which nothing in Postgres was unknown here."""
        return self._whole_at

    def revokes(self, ids: tuple[str, str, str, str, str], issued_at: int) -> Kind | None:
        """By which of these ids a token is revoked, as `settle.lua` decides."""
        return first_hit([self._values.get(entry_id) for entry_id in ids], issued_at) or self._seen.get(ids[0])

    def saw_revoked(self, ids: tuple[str, str, str, str, str], by: Kind) -> None:
        """Redis refused this token: it is not let in again, though the next look at Postgres may never come."""
        if len(self._seen) < MAX_SEEN:
            self._seen[ids[0]] = by

    async def _run(self) -> None:
        backoff = Backoff(self._stop)
        while not self._stop.is_set():
            try:
                async with await connect(self._url) as connection:
                    await self._follow(connection, backoff)
            except (psycopg.Error, OSError) as failure:  # TimeoutError is an OSError
                log.warning("revocations: this worker cannot follow postgres", extra={"error": str(failure)})
            except Exception:
                log.exception("revocations: unexpected failure, starting over")
            self._up = False
            await backoff.pause()

    async def _follow(self, connection: Connection, backoff: Backoff) -> None:
        """Every row first: a standby may have taken over, whose transactions count differently."""
        seen, read_at = "", -math.inf
        while not self._stop.is_set():
            looked_at, seen_before = self._clock.monotonic(), set(self._seen)
            since, seen = seen, await horizon(connection)
            if looked_at - read_at >= ANEW:
                await self._read_all(connection)
                read_at = looked_at
            else:
                self._learn(self._values, await changed_since(connection, since))
            self._whole_at, self._up = looked_at, True
            self._seen = {token: by for token, by in self._seen.items() if token not in seen_before}
            backoff.succeeded()
            await pause(self._stop, self._poll)

    async def _read_all(self, connection: Connection) -> None:
        values: dict[str, int] = {}
        async with aclosing(chunks_of_all(connection, CHUNK)) as chunks:
            async for chunk in chunks:
                self._learn(values, chunk)
        self._values = values

    @staticmethod
    def _learn(values: dict[str, int], changes: Sequence[Change]) -> None:
        for row in changes:
            if row.value:
                values[row.id] = int(row.value)
            else:
                values.pop(row.id, None)
