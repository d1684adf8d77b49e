"""Background work that one process of several does: who does it is a row in Postgres, with an end.

The holder renews it; when it crashes, another takes over within seconds. Two may believe to hold it for a moment (one
was suspended, say): the work must bear that, and `save` is refused to the one who does not.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any
from uuid import uuid4

from psycopg.types.json import Jsonb

from ext_authz.db.backoff import first, pause
from ext_authz.db.postgres import Connection, Pool
from ext_authz.errors import TollgateError, Unavailable

log = logging.getLogger(__name__)

SECONDS = 6.0
"""From the last renewal until another process may take it."""

_NAME = "INSERT INTO leases (name) VALUES (%(name)s) ON CONFLICT DO NOTHING"
_TAKE = """
UPDATE leases SET holder = %(holder)s, until = now() + make_interval(secs => %(seconds)s)
WHERE name = %(name)s AND (holder = %(holder)s OR until <= now())
"""
_RELEASE = "UPDATE leases SET until = '-infinity' WHERE name = %(name)s AND holder = %(holder)s"
_SAVE = """
UPDATE leases SET position = %(position)s WHERE name = %(name)s AND holder = %(holder)s AND until > now()
"""
_IS_MINE = "SELECT FROM leases WHERE name = %(name)s AND holder = %(holder)s AND until > now()"


class Lost(TollgateError):
    """Another process has the lease."""


class Lease:
    """Of one piece of work, by its name. Raises Unavailable("postgres")."""

    def __init__(self, pool: Pool, name: str, *, seconds: float = SECONDS) -> None:
        self._pool = pool
        self._values = {"name": name, "seconds": seconds, "holder": f"{socket.gethostname()}:{os.getpid()}:{uuid4()}"}
        self._seconds = seconds

    async def run(self, work: Callable[[asyncio.Event], Awaitable[None]], stop: asyncio.Event) -> None:
        """Whenever this process holds the lease, until `stop`. The event that `work` gets is set when it has to end."""
        while not stop.is_set():
            if await self._taken():
                await self._hold(work, stop)
            else:
                await pause(stop, self._seconds / 3)

    async def take(self) -> bool:
        """Or keep it."""

        async def taken(connection: Connection) -> bool:
            await connection.execute(_NAME, self._values)
            return (await connection.execute(_TAKE, self._values)).rowcount > 0

        return await self._pool.run(taken)

    async def release(self) -> None:
        """Another process need not wait for the end of the lease."""
        await self._pool.run(lambda connection: connection.execute(_RELEASE, self._values))

    async def position(self) -> Any:  # noqa: ANN401 - JSON
        """As last saved; None: never."""

        async def read(connection: Connection) -> Any:  # noqa: ANN401 - JSON
            cursor = await connection.execute("SELECT position FROM leases WHERE name = %(name)s", self._values)
            row = await cursor.fetchone()
            return row[0] if row else None

        return await self._pool.run(read)

    async def save(self, connection: Connection, position: object) -> None:
        """In the caller's transaction.

        Raises:
            Lost: nothing of that transaction may be committed.
        """
        cursor = await connection.execute(_SAVE, {**self._values, "position": Jsonb(position)})
        if not cursor.rowcount:
            raise Lost("another process has taken the lease")

    async def ensure(self, connection: Connection) -> None:
        """In the caller's transaction; raises as `save`."""
        cursor = await connection.execute(_IS_MINE, self._values)
        if await cursor.fetchone() is None:
            raise Lost("another process has taken the lease")

    async def _hold(self, work: Callable[[asyncio.Event], Awaitable[None]], stop: asyncio.Event) -> None:
        end = asyncio.Event()
        working = asyncio.ensure_future(work(end))
        try:
            while not stop.is_set() and not working.done():
                await first(stop.wait(), working, seconds=self._seconds / 3)
                if not stop.is_set() and not working.done() and not await self._taken():
                    log.warning("lease: lost", extra={"detail": self._values["name"]})
                    break
        finally:
            end.set()
            with suppress(Lost):
                await working
            with suppress(Unavailable):
                await self.release()

    async def _taken(self) -> bool:
        """False also while Postgres does not answer: without it nobody can tell whose the lease is."""
        try:
            return await self.take()
        except Unavailable:
            return False
