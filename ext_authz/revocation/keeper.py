"""Keeps the file that the workers know revocations from (`known.py`) equal to Postgres, while one of them wants it."""

from __future__ import annotations

import asyncio
import logging
import math
import mmap
import os
from contextlib import aclosing
from pathlib import Path

import psycopg
from pydantic import SecretStr

from ext_authz.clock import Clock
from ext_authz.db.backoff import Backoff, pause
from ext_authz.db.causes import postgres_cause
from ext_authz.db.postgres import Connection, connect
from ext_authz.errors import Unavailable
from ext_authz.observability.metrics import REVOCATION_KNOWN
from ext_authz.observability.once import OncePerCause
from ext_authz.revocation import known
from ext_authz.revocation.change import (
    BLOCKS,
    Position,
    TableRewritten,
    changes,
    chunks_since,
    count,
    ensure_readable,
    pages,
    position,
    rows_of,
)

log = logging.getLogger(__name__)

_UNWANTED = 30.0
"""Seconds after which nobody wants the file any more."""
_ROOM = 2
"""Slots per row when a table is made."""
_CROWDED = 0.75
_SPARE = 4096
_LOOK = 1.0
"""Seconds between two looks whether somebody wants it."""


class Crowded(Exception):
    """A table has no room left."""


class Table:
    """The file, as its one writer sees it."""

    def __init__(self, path: Path, rows: int) -> None:
        """Raises OSError when there is no room for it."""
        self.path = path
        self._slots = rows * _ROOM + _SPARE
        self._used = 0
        size = known.HEADER.size + (self._slots + known.TAIL) * known.SLOT
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(file, 0, size)  # a full disk now is an error, later it would be a signal
            self._bytes = mmap.mmap(file, size)
        finally:
            os.close(file)
        self.say(-math.inf, -math.inf)

    def close(self) -> None:
        self._bytes.close()

    @property
    def crowded(self) -> bool:
        return self._used > _CROWDED * self._slots

    def say(self, whole_at: float, answered_at: float) -> None:
        known.HEADER.pack_into(self._bytes, 0, whole_at, answered_at)

    def learn(self, chunk: str) -> None:
        """Raises Crowded."""
        for entry_id, held, _ in rows_of(chunk):
            self._set(known.digest_of(entry_id), _until(held))
        self._bytes.madvise(mmap.MADV_DONTNEED)  # the kernel keeps it, this process need not

    def _set(self, digest: bytes, until: int) -> None:
        held, at = self._bytes, known.HEADER.size + known.slot_of(digest, self._slots) * known.SLOT
        while (there := held[at : at + known.DIGEST]) not in (digest, known.FREE):
            at += known.SLOT
        if there == known.FREE and not until:
            return
        if at + 2 * known.SLOT > len(held):
            raise Crowded
        held[at + known.DIGEST : at + known.SLOT] = until.to_bytes(known.SLOT - known.DIGEST)
        if there == known.FREE:
            held[at : at + known.DIGEST] = digest
            self._used += 1


def _until(held: str) -> int:
    """Up to when what was issued is revoked, by what Redis holds of a row."""
    if held.startswith("-"):
        return 0
    until = held.partition(":")[2]
    return min(int(until), known.EVER) if until else known.EVER


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
        """Until `stop`; outlives every failure of Postgres."""
        failing, working = "revocations: the workers' own list is not kept", "revocations: it is kept again"
        trouble = OncePerCause(log, failing=failing, working=working)
        backoff = Backoff(stop, trouble.worked)
        while not stop.is_set():
            if not self._wanted():
                self._let_go()
                await pause(stop, _LOOK)
                continue
            try:
                async with await connect(self._url) as connection:
                    await ensure_readable(connection)
                    await self._follow(connection, stop, backoff)
            except (psycopg.Error, Unavailable, OSError) as failure:  # TimeoutError is an OSError
                trouble.failed(postgres_cause(failure))
            except (Crowded, TableRewritten):
                log.info("revocations: the workers' own list is made anew")
            except Exception:
                log.exception("revocations: unexpected failure, starting over")
            await backoff.pause()
        self._let_go()

    def _wanted(self) -> bool:
        try:
            return self._clock.now() - known.wanted_path().stat().st_mtime < _UNWANTED
        except FileNotFoundError:
            return False

    async def _follow(self, connection: Connection, stop: asyncio.Event, backoff: Backoff) -> None:
        """Every row first: Postgres may be another one than before."""
        table, since = await self._make(connection)
        while not stop.is_set() and self._wanted():
            looked_at = self._clock.monotonic()
            since = await _catch_up(connection, since, table)
            self._say(looked_at, whole=True)
            REVOCATION_KNOWN.set(self._clock.now())
            backoff.succeeded()
            await pause(stop, self._poll / 2)

    async def _make(self, connection: Connection) -> tuple[Table, Position]:
        """A new table; meanwhile the old one says what it said."""
        if self._table is None:
            self._put(Table(_beside(), 0))
        since, table = await position(connection), Table(_beside(), await count(connection))
        try:
            async with aclosing(pages(connection, self._blocks)) as found:
                async for page in found:
                    table.learn(page.chunk)
                    self._say(self._clock.monotonic(), whole=False)
        except BaseException:
            table.close()
            raise
        self._put(table)
        return table, since

    def _put(self, table: Table) -> None:
        """In place of the one that is there."""
        self._close()
        table.say(self._whole_at, self._clock.monotonic())
        _beside().rename(known.path())
        self._table = table

    def _say(self, at: float, *, whole: bool) -> None:
        if whole:
            self._whole_at = at
        if self._table is not None:
            self._table.say(self._whole_at, at)

    def _close(self) -> None:
        if self._table is not None:
            self._table.close()
            self._table = None

    def _let_go(self) -> None:
        self._close()
        known.path().unlink(missing_ok=True)
        self._whole_at = -math.inf
        REVOCATION_KNOWN.set(0)


async def _catch_up(connection: Connection, since: Position, table: Table) -> Position:
    """Learn what was written since then."""
    recent = await changes(connection, since)
    if not since.precedes(recent.position):
        raise OSError("postgres has another history than before")
    if recent.whole:
        table.learn(recent.chunk)
    else:
        async with aclosing(chunks_since(connection, since)) as chunks:
            async for chunk in chunks:
                table.learn(chunk)
    if table.crowded:
        raise Crowded
    return recent.position


def _beside() -> Path:
    return known.path().with_suffix(".new")
