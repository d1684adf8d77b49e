"""Fills one copy from Postgres, and compares it with Postgres, row by row. No new row waits for either."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import AsyncIterator
from contextlib import aclosing

from redis.exceptions import RedisError

from ext_authz.clock import Clock
from ext_authz.db.backoff import Backoff, pause
from ext_authz.db.postgres import Connection
from ext_authz.observability.metrics import REVOCATIONS
from ext_authz.revocation.copy import RevocationCopy, Status
from ext_authz.revocation.entry import NEVER, revoked_until
from ext_authz.revocation.feed import Feed, StartOver, chunk_of, delete_old, named, pages, revision_of

log = logging.getLogger(__name__)

COMPARE_EVERY = 300.0
"""Seconds from one comparison of all rows to the next, unless it takes longer."""
COMPARE_LOOK = 1.0
"""Seconds between two attempts to claim the comparison, or to renew the claim; well below its lease."""
SHARE = 0.1
"""Of the time that a comparison may work; the rest is left to other work."""
LONGEST_PAUSE = 1.0
AHEAD = 4
"""Chunks that are being written while the next one is read."""


class Filling:
    """Writes rows into one copy, as part of a rebuild if there is a nonce."""

    def __init__(self, connection: Connection, copy: RevocationCopy, nonce: str = "") -> None:
        self._connection = connection
        self._copy = copy
        self._nonce = nonce

    async def write(self, chunk: str) -> int:
        """Returns how many rows were new.

        Raises:
            StartOver: Redis lost something in the middle of a rebuild, or another process has begun one.
        """
        written = await (self._copy.fill(chunk, self._nonce) if self._nonce else self._copy.write(chunk))
        if written.rows < 0:
            raise StartOver
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
        """Redis holds these as lifted, by a revision that Postgres had not assigned when the row was read.

        Redis only ever gets what was committed: so if Postgres, asked again, still has an older revision only, then it
        was restored to an older state. It is the truth, and the row is in force.
        """
        for row in await named(self._connection, list(held)):
            if revoked_until(row.held) > NEVER and revision_of(row.held) < revision_of(held[row.id]):
                log.warning("revocations: postgres was restored, a lifted row is in force again: %s", row.id)
                await self._copy.forget(row.id, held[row.id])
                await self.write(chunk_of([row]))


async def rebuild(connection: Connection, copy: RevocationCopy, found: Status, nonce: str, blocks: int) -> bool:
    """Write every row, then the marker; False when anything was lost meanwhile, or `found` holds no longer.

    Raises:
        StartOver
    """
    feed = Feed(connection, blocks)
    async with aclosing(feed.everything()) as chunks:
        await Filling(connection, copy, nonce).write_each(chunks)
    return await copy.finish(nonce, found, feed.position)


class Comparison:
    """Compares one copy with Postgres every few minutes, and repairs what differs, whatever the reason.

    Of several processes one does it. It also deletes rows that have been out of force for long.
    """

    def __init__(self, copy: RevocationCopy, clock: Clock, *, blocks: int, share: float) -> None:
        """`blocks`: of the table, read at a time; `share`: of the time that it may work."""
        self._copy = copy
        self._clock = clock
        self._blocks = blocks
        self._share = share
        self._name = f"by {secrets.token_hex(8)}"

    async def run(self, connection: Connection, stop: asyncio.Event, backoff: Backoff) -> None:
        while not stop.is_set():
            try:
                if await self._claimed():
                    await self._compare(connection, stop)
                backoff.succeeded()
            except (RedisError, StartOver):  # following the changes reports it
                pass
            await pause(stop, COMPARE_LOOK)

    async def _claimed(self) -> bool:
        """Whether it is this process that compares. None does while the copy is being filled: that writes every row."""
        if not (await self._copy.status()).complete:
            return False
        in_force = await self._copy.claim_comparison(self._name)
        if in_force is not None and in_force >= 0:
            REVOCATIONS.set(in_force)
        return in_force is None

    async def _compare(self, connection: Connection, stop: asyncio.Event) -> None:
        filling, in_force, repaired = Filling(connection, self._copy), 0, 0
        began = claimed_at = resumed = self._clock.monotonic()
        async with aclosing(pages(connection, self._blocks)) as table:
            async for page in table:
                repaired += await filling.write(page.chunk)
                in_force += page.in_force
                if page.old:
                    await delete_old(connection, page, self._blocks)
                worked = self._clock.monotonic() - resumed
                await pause(stop, min(LONGEST_PAUSE, worked / self._share - worked))
                resumed = self._clock.monotonic()
                if stop.is_set():
                    return
                if resumed - claimed_at > COMPARE_LOOK:
                    claimed_at = resumed
                    if not await self._claimed():
                        return
        if repaired:
            detail = f"shard {self._copy.shard}: {repaired}"
            log.info("revocations: rows that were missing in redis or outdated there", extra={"detail": detail})
        await self._copy.end_comparison(in_force, COMPARE_EVERY - (self._clock.monotonic() - began))
        REVOCATIONS.set(in_force)
