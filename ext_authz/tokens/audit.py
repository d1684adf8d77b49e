"""The audit log: one row per change, in the transaction of the change. Postgres chains them (migration 0009)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime
from functools import partial
from typing import Any, LiteralString, NamedTuple

from msgspec import Struct

from ext_authz.db.postgres import Connection, Read
from ext_authz.tokens.model import Actor

_RECORD: LiteralString = """
INSERT INTO audit_log (actor, via, address, action, object, details) VALUES (%s, %s, %s, %s, %s, %s)
"""
_LATEST: LiteralString = """
SELECT position, at, actor, role, via, address, action, object, details, hash FROM audit_log
WHERE (%(object)s = '' OR object = %(object)s) AND (%(who)s = '' OR actor = %(who)s)
    AND (%(before)s::bigint IS NULL OR position < %(before)s)
ORDER BY position DESC LIMIT %(limit)s
"""


# What audit_hash() of migration 0009 hashes.
_CHAIN: LiteralString = """
SELECT position, previous, hash, jsonb_build_array(
    position, extract(epoch FROM at)::text, actor, role, via, address, action, object, details)::text
FROM audit_log WHERE position > %s ORDER BY position LIMIT %s
"""
PAGE = 1000
"""Entries of one query."""


class AuditEntry(Struct, frozen=True):
    """One change."""

    position: int
    at: datetime
    actor: str
    role: str
    """Who was logged in to Postgres."""
    via: str
    address: str
    action: str
    object: str
    details: Mapping[str, Any]
    hash: bytes
    """SHA-256 over this entry and the hash of the one before."""


class AuditPage(Struct, frozen=True):
    """Some entries, the newest first."""

    entries: tuple[AuditEntry, ...]
    cursor: str = ""
    """For the next page; empty: there is none."""


async def record(
    connection: Connection,
    actor: Actor,
    action: str,
    object: str,  # noqa: A002
    details: Mapping[str, Any],
) -> None:
    """As the last statement of the transaction: until its commit, every other one that writes here waits.

    `action`: dotted, as `grant.created`. `details`: never a credential.
    """
    row = (actor.name, actor.via, actor.address, action, object, json.dumps(details, default=str))
    await connection.execute(_RECORD, row)


async def entries(
    connection: Connection,
    *,
    object: str = "",  # noqa: A002
    who: str = "",
    before: int | None = None,
    limit: int = 50,
) -> list[AuditEntry]:
    """The latest first."""
    wanted = {"object": object, "who": who, "before": before, "limit": limit}
    return [AuditEntry(*row) for row in await (await connection.execute(_LATEST, wanted)).fetchall()]


class Head(NamedTuple):
    """Up to where the log was seen, kept where nobody who can write to Postgres can write."""

    position: int
    hash: str
    """In hex."""

    def __str__(self) -> str:
        return f"{self.position}:{self.hash}"


START = Head(0, "")


class Verdict(Struct, frozen=True):
    """What is wrong with the chain."""

    head: Head
    """Of the last entry that is good."""
    broken_at: int = 0
    """Position of the first entry that is not; 0: the whole chain is good."""
    why: str = ""


async def verify(read: Read, expected: Head = START) -> Verdict:
    """Compute every hash again, here and not in Postgres, whose functions its administrators can replace.

    `read`: runs a query in a transaction of its own. `expected`: the chain must lead through it; without one, entries
    that are missing at its end do not show.
    """
    head = START
    while rows := await read(partial(_links, after=head.position)):
        for row in rows:
            if why := _broken(head, row):
                return Verdict(head, head.position + 1, why)
            head = Head(row.position, row.hash.hex())
            if head.position == expected.position and head.hash != expected.hash:
                return Verdict(head, head.position, "it is another entry than the one that was there")
    if expected.position > head.position:
        return Verdict(head, head.position + 1, "entries that were there are missing at the end")
    return Verdict(head)


class _Link(NamedTuple):
    position: int
    previous: bytes
    hash: bytes
    content: str
    """What is hashed after `previous`."""


async def _links(connection: Connection, after: int) -> list[_Link]:
    return [_Link(*row) for row in await (await connection.execute(_CHAIN, (after, PAGE))).fetchall()]


def _broken(head: Head, link: _Link) -> str:
    """Empty where the link follows the head."""
    if link.position != head.position + 1:
        return "it is missing"
    if link.previous.hex() != head.hash:
        return "it does not follow the entry before it"
    if hashlib.sha256(link.previous + link.content.encode()).digest() != link.hash:
        return "it was changed"
    return ""
