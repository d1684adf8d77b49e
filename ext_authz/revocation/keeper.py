"""Keeps the file that workers look revocations up in (`known.py`) equal to Postgres, while one of them wants it."""

from __future__ import annotations

import asyncio
import logging
import math
from contextlib import aclosing
from pathlib import Path

from pydantic import SecretStr

from ext_authz.clock import Clock
from ext_authz.db.backoff import Backoff, pause
from ext_authz.db.postgres import Connection
from ext_authz.observability.metrics import REVOCATION_KNOWN
from ext_authz.observability.once import OncePerCause
from ext_authz.revocation.feed import BLOCKS, Feed, StartOver, attempt, count
from ext_authz.revocation.known import Table, path, wanted_path

log = logging.getLogger(__name__)

_UNWANTED = 30.0
"""Seconds after which no worker wants the file any more."""
_LOOK = 1.0
"""Seconds between two checks whether a worker wants it."""


class Keeper:
    """`run` it once per machine, beside the workers."""

    def __init__(self, url: SecretStr, clock: Clock, *, poll: float, blocks: int = BLOCKS) -> None:
        self._url = url.get_secret_value()
        self._clock = clock
        self._poll = poll
        self._blocks = blocks
        self._table: Table | None = None
        self._whole_at = -math.inf

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`; survives every failure of Postgres."""
        failing, working = "revocations: the workers' own list is not kept", "revocations: it is kept again"
        trouble = OncePerCause(log, failing=failing, working=working)
        backoff = Backoff(stop, trouble.worked)
        while not stop.is_set():
            if self._wanted():
                await attempt(self._url, lambda opened: self._follow(opened, stop, backoff), failed=trouble.failed)
                await backoff.pause()
            else:
                self._let_go()
                await pause(stop, _LOOK)
        self._let_go()

    def _wanted(self) -> bool:
        try:
            return self._clock.now() - wanted_path().stat().st_mtime < _UNWANTED
        except FileNotFoundError:
            return False

    async def _follow(self, connection: Connection, stop: asyncio.Event, backoff: Backoff) -> None:
        """Read every row first: Postgres may be another one than before."""
        feed = Feed(connection, self._blocks)
        try:
            table = await self._make(feed, await count(connection))
            while not stop.is_set() and self._wanted():
                queried_at = self._clock.monotonic()
                async with aclosing(feed.changes()) as chunks:
                    async for chunk in chunks:
                        table.learn(chunk)
                self._say(queried_at, whole=True)
                REVOCATION_KNOWN.set(self._clock.now())
                backoff.succeeded()
                await pause(stop, self._poll / 2)
        except StartOver:
            log.info("revocations: the workers' own list is built again")

    async def _make(self, feed: Feed, rows: int) -> Table:
        """A new table; until it is complete the old one stays."""
        if self._table is None:
            self._put(Table(_beside(), 0))
        table = Table(_beside(), rows)
        try:
            async with aclosing(feed.everything()) as chunks:
                async for chunk in chunks:
                    table.learn(chunk)
                    self._say(self._clock.monotonic(), whole=False)
        except BaseException:
            table.close()
            raise
        self._put(table)
        return table

    def _put(self, table: Table) -> None:
        """In place of the one that is there."""
        self._close()
        table.set_times(self._whole_at, self._clock.monotonic())
        _beside().rename(path())
        self._table = table

    def _say(self, at: float, *, whole: bool) -> None:
        if whole:
            self._whole_at = at
        if self._table is not None:
            self._table.set_times(self._whole_at, at)

    def _close(self) -> None:
        if self._table is not None:
            self._table.close()
            self._table = None

    def _let_go(self) -> None:
        self._close()
        path().unlink(missing_ok=True)
        self._whole_at = -math.inf
        REVOCATION_KNOWN.set(0)


def _beside() -> Path:
    return path().with_suffix(".new")
