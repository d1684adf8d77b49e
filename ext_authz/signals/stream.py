"""The stream of security events that we are connected to, and who of all processes asks it: the position of a lease."""

from __future__ import annotations

import math
import time
from typing import LiteralString

import msgspec
from msgspec import Struct
from psycopg.types.json import Jsonb

from ext_authz.db.lease import Lease
from ext_authz.db.postgres import Connection, Pool

# An empty holder has no lease: a stream may be kept before anybody asks it.
_KEEP: LiteralString = """
INSERT INTO leases (name, position) VALUES (%(name)s, %(stream)s)
ON CONFLICT (name) DO UPDATE SET position = excluded.position
"""
_REPLACE: LiteralString = """
UPDATE leases SET position = %(stream)s WHERE name = %(name)s AND position->>'id' = %(gone)s
"""

LEASE = 15.0
"""Seconds without a poll after which another process takes over."""
_FRESH = 1.0
"""Seconds."""


class Stream(Struct, frozen=True, kw_only=True):
    """One at the transmitter of an issuer."""

    issuer: str
    """Its name in the policy."""
    id: str
    audience: tuple[str, ...]
    """One of them is in `aud` of its events."""
    push: str = ""
    """Where the events are sent to; empty: they are asked for."""
    endpoint: str = ""
    """Where they are asked for."""
    authorization: str = ""
    """SHA-256 of the header that pushed events come with, in hexadecimal."""


class Streams:
    """The stream of one issuer. Raises Unavailable("postgres")."""

    def __init__(self, pool: Pool, issuer: str, *, seconds: float = LEASE) -> None:
        self._pool = pool
        self._name = f"ssf:{issuer}"
        self._lease = Lease(pool, self._name, seconds=seconds)
        self.release = self._lease.release
        self._found: Stream | None = None
        self._fresh_until = -math.inf

    async def keep(self, stream: Stream | None) -> None:
        """None: we are connected to none."""
        await self._changed(_KEEP, stream)

    async def replaced(self, gone: Stream, stream: Stream) -> bool:
        """False where we are not connected to the first any more."""
        return await self._changed(_REPLACE, stream, gone=gone.id)

    async def find(self) -> Stream | None:
        position = await self._lease.position()
        return msgspec.convert(position, Stream) if position else None

    async def pushed(self) -> Stream | None:
        """Only one whose events are sent to us, as it was a second ago: anybody may ask that."""
        if time.monotonic() >= self._fresh_until:
            self._found = await self.find()
            self._fresh_until = time.monotonic() + _FRESH
        return self._found if self._found and self._found.push else None

    async def taken(self) -> Stream | None:
        """The stream, if this process is the one that looks after it. Nothing is written where there is none."""
        if await self.find() is None or not await self._lease.take():
            return None
        return await self.find()

    async def _changed(self, query: LiteralString, stream: Stream | None, **values: str) -> bool:
        position = None if stream is None else Jsonb(msgspec.to_builtins(stream))

        async def changed(connection: Connection) -> bool:
            return (await connection.execute(query, {"name": self._name, "stream": position, **values})).rowcount > 0

        return await self._pool.run(changed)
