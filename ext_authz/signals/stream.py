"""The stream of security events that we are connected to, and who of all processes asks it. In the table `leases`.

No process holds a lock: a lease ends by itself, and whoever takes it next continues where the stream is.
"""

from __future__ import annotations

import math
import time
from typing import LiteralString

import msgspec
from msgspec import Struct

from ext_authz.db.postgres import Connection, Pool

# An empty holder has no lease: a stream may be kept before anybody asks it.
_KEEP: LiteralString = """
INSERT INTO leases (name, position) VALUES (%(name)s, %(stream)s::jsonb)
ON CONFLICT (name) DO UPDATE SET position = excluded.position
"""
_REPLACE: LiteralString = """
UPDATE leases SET position = %(stream)s::jsonb WHERE name = %(name)s AND position->>'id' = %(gone)s RETURNING name
"""
_FIND: LiteralString = "SELECT position::text FROM leases WHERE name = %(name)s AND position IS NOT NULL"
_TAKE: LiteralString = """
UPDATE leases SET holder = %(holder)s, until = now() + make_interval(secs => %(seconds)s)
WHERE name = %(name)s AND position IS NOT NULL AND (holder = %(holder)s OR until < now()) RETURNING position::text
"""
_RELEASE: LiteralString = "UPDATE leases SET until = '-infinity' WHERE name = %(name)s AND holder = %(holder)s"


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

    def __init__(self, pool: Pool, issuer: str, holder: str = "") -> None:
        """`holder`: names this process among all."""
        self._pool = pool
        self._name = f"ssf:{issuer}"
        self._holder = holder
        self._found: Stream | None = None
        self._fresh_until = -math.inf

    async def keep(self, stream: Stream | None) -> None:
        """None: we are connected to none."""
        await self._run(_KEEP, stream=msgspec.json.encode(stream).decode() if stream else None)

    async def replaced(self, gone: Stream, stream: Stream) -> bool:
        """False where we are not connected to the first any more."""
        return await self._run(_REPLACE, gone=gone.id, stream=msgspec.json.encode(stream).decode()) is not None

    async def find(self) -> Stream | None:
        return _stream(await self._run(_FIND))

    async def pushed(self) -> Stream | None:
        """Only one whose events are sent to us, as it was a second ago: anybody may ask that."""
        if time.monotonic() >= self._fresh_until:
            self._found = await self.find()
            self._fresh_until = time.monotonic() + _FRESH
        return self._found if self._found and self._found.push else None

    async def taken(self, seconds: float) -> Stream | None:
        """The stream, if this process is the one that looks after it: for so long."""
        return _stream(await self._run(_TAKE, seconds=seconds))

    async def release(self) -> None:
        """Another process need not wait for the end of the lease."""
        await self._run(_RELEASE)

    async def _run(self, query: LiteralString, **values: object) -> str | None:
        async def asked(connection: Connection) -> str | None:
            cursor = await connection.execute(query, {"name": self._name, "holder": self._holder, **values})
            row = await cursor.fetchone() if cursor.description else None
            return row[0] if row else None

        return await self._pool.run(asked)


def _stream(position: str | None) -> Stream | None:
    return msgspec.json.decode(position, type=Stream) if position else None
