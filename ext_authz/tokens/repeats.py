"""Idempotency keys: who repeats a request under the same key gets the same token, and nothing is made twice."""

from __future__ import annotations

import hashlib
import re
from datetime import datetime, timedelta
from typing import LiteralString

import msgspec
from msgspec import Struct

from ext_authz.db.postgres import Connection
from ext_authz.tokens.model import Actor, NotDone, Why

KEPT = timedelta(hours=24)

_KEY = re.compile(r"[\x21-\x7e]{1,64}", re.ASCII)
_TAKE: LiteralString = """
INSERT INTO idempotency_keys AS held (actor, key, request, token, expires_at)
VALUES (%(actor)s, %(key)s, %(request)s, %(token)s, %(expires_at)s)
ON CONFLICT (actor, key) DO UPDATE SET request = excluded.request, token = excluded.token,
    expires_at = excluded.expires_at WHERE held.expires_at <= %(now)s
RETURNING token
"""
_EARLIER: LiteralString = "SELECT request, token FROM idempotency_keys WHERE actor = %s AND key = %s"
_FORGET: LiteralString = """
DELETE FROM idempotency_keys WHERE (actor, key) IN (
    SELECT actor, key FROM idempotency_keys WHERE expires_at <= %s ORDER BY expires_at LIMIT 100 FOR UPDATE SKIP LOCKED
)
"""


class Request(Struct, frozen=True):
    """What somebody asks for under a key; without one every request is a new one."""

    actor: str
    key: str
    digest: bytes
    """SHA-256 of what is asked for."""


def request(actor: Actor, key: str, *asked: object) -> Request | None:
    """Raises NotDone (INVALID): the key is 1 to 64 visible ASCII characters."""
    if not key:
        return None
    if not _KEY.fullmatch(key):
        raise NotDone(Why.INVALID, "an idempotency key is 1 to 64 visible ASCII characters", "idempotency_key")
    who = f"{actor.issuer} {actor.subject}" if actor.subject else f"{actor.via} {actor.name}"
    return Request(who, key, hashlib.sha256(msgspec.json.encode(asked)).digest())


async def earlier(connection: Connection, asked: Request | None, jti: str, now: datetime) -> str | None:
    """The `jti` that the same request got before; None: this is the first, which gets this one.

    Whoever asks at the same time waits here for the commit.

    Raises:
        NotDone: CONFLICT, something else was asked for under this key.
    """
    if asked is None:
        return None
    row = {"actor": asked.actor, "key": asked.key, "request": asked.digest, "token": jti}
    taken = await connection.execute(_TAKE, {**row, "expires_at": now + KEPT, "now": now})
    if await taken.fetchone() is not None:
        await connection.execute(_FORGET, (now,))
        return None
    held = await (await connection.execute(_EARLIER, (asked.actor, asked.key))).fetchone()
    if held is None or held[0] != asked.digest:
        detail = "this idempotency key was used for another request in the last 24 hours: take a new one"
        raise NotDone(Why.CONFLICT, detail, "idempotency_key")
    return str(held[1])
