"""Fills one shard of the copy from Postgres, or compares it with Postgres, row by row. No new row waits for either."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator
from contextlib import aclosing

from ext_authz.clock import Clock
from ext_authz.db.backoff import pause
from ext_authz.db.postgres import Connection
from ext_authz.revocation.change import (
    Position,
    changes,
    chunk_of,
    chunks_since,
    delete_old,
    named,
    pages,
    position,
    revision_of,
)
from ext_authz.revocation.copy import RevocationCopy, Status

log = logging.getLogger(__name__)

SHARE = 0.1
"""Of the time in which a comparison works; the rest it leaves to others."""
LONGEST_PAUSE = 1.0
AHEAD = 4
RENEW = 1.0
"""Seconds between two looks at who compares; well below the lease."""


class NonceLost(Exception):
    """Redis lost something in the middle of a rebuild, or somebody else has begun another one."""


class Filling:
    """Writes rows into one shard, as part of a rebuild if there is a nonce."""

    def __init__(self, connection: Connection, copy: RevocationCopy, shard: int, nonce: str = "") -> None:
        self._connection = connection
        self._copy = copy
        self._shard = shard
        self._nonce = nonce

    async def write(self, chunk: str) -> int:
        """Returns how many rows were new.

        Raises:
            NonceLost
        """
        nonce, shard = self._nonce, self._shard
        written = await (self._copy.fill(shard, chunk, nonce) if nonce else self._copy.write(shard, chunk))
        if written.rows < 0:
            raise NonceLost
        if written.ahead:
            await self._take_back(dict(written.ahead))
        return written.rows

    async def write_each(self, chunks: AsyncIterator[str]) -> None:
        """The next one is read while Redis takes `AHEAD`: it never waits for us to pack one or to read its replies."""
        writing: deque[asyncio.Task[int]] = deque()
        try:
            async for chunk in chunks:
                if len(writing) == AHEAD:
                    await writing.popleft()
                writing.append(asyncio.create_task(self.write(chunk)))
            while writing:
                await writing.popleft()
        finally:
            for each in writing:
                each.cancel()
            await asyncio.gather(*writing, return_exceptions=True)

    async def _take_back(self, held: dict[str, str]) -> None:
        """Redis says lifted, by a revision that Postgres had not given out when the row was read.

        Redis only ever gets what was committed: so if Postgres, asked again, still knows an older revision only, then
        it was restored to an older state. It is the truth, and the row is in force.
        """
        for row in await named(self._connection, list(held)):
            if row.in_force and revision_of(row.held) < revision_of(held[row.id]):
                log.warning("revocations: postgres has gone back, a lifted row is in force again: %s", row.id)
                await self._copy.forget(self._shard, row.id, held[row.id])
                await self.write(chunk_of([row]))


async def rebuild(
    connection: Connection, copy: RevocationCopy, shard: int, found: Status, nonce: str, size: int
) -> bool:
    """Write every row, then the marker; False when anything was lost meanwhile, or `found` holds no longer.

    Raises:
        NonceLost, TableRewritten: start over.
    """
    filling = Filling(connection, copy, shard, nonce)
    since = await position(connection)
    async with aclosing(pages(connection, size)) as table:
        await filling.write_each(page.chunk async for page in table)
    now = await _caught_up(connection, filling, since)
    return since.precedes(now) and await copy.finish(shard, nonce, found, now)


async def _caught_up(connection: Connection, filling: Filling, since: Position) -> Position:
    """Bring what was written during the rebuild, until little is left; up to where it is all there."""
    while True:
        recent = await changes(connection, since)
        if recent.whole:
            await filling.write(recent.chunk)
            return recent.position
        async with aclosing(chunks_since(connection, since)) as chunks:
            await filling.write_each(chunks)
        since = recent.position


class Comparison:
    """Compares one shard with Postgres, all rows in turn, and mends what differs: against what nobody thought of.

    Deletes rows that have been out of force for long on its way.
    """

    def __init__(
        self, connection: Connection, copy: RevocationCopy, shard: int, *, name: str, clock: Clock, size: int
    ) -> None:
        """`name`: of who compares; of several only one does."""
        self._connection = connection
        self._copy = copy
        self._shard = shard
        self._name = name
        self._clock = clock
        self._size = size
        self._share = SHARE / len(copy.shards)

    async def run(self, stop: asyncio.Event) -> int | None:
        """How many rows are in force; None when it was stopped, or somebody else is at it.

        Raises:
            TableRewritten: start over.
        """
        filling, in_force, mended = Filling(self._connection, self._copy, self._shard), 0, 0
        claimed_at = began = self._clock.monotonic()
        async with aclosing(pages(self._connection, self._size)) as table:
            async for page in table:
                mended += await filling.write(page.chunk)
                in_force += page.in_force
                if page.old:
                    await delete_old(self._connection, page, self._size)
                worked = self._clock.monotonic() - began
                await pause(stop, min(LONGEST_PAUSE, worked / self._share - worked))
                began = self._clock.monotonic()
                if began - claimed_at > RENEW:
                    claimed_at = began
                    if await self._copy.claim(self._shard, self._name) is not None:
                        return None
                if stop.is_set():
                    return None
        if mended:
            log.info("revocations: rows that the copy did not hold", extra={"detail": f"shard {self._shard}: {mended}"})
        return in_force
