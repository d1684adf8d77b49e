"""The audit log: one row per change, in the transaction of the change. Postgres chains them (migration 0009)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, LiteralString

from msgspec import Struct

from ext_authz.db.postgres import Connection
from ext_authz.tokens.model import Actor

_RECORD: LiteralString = """
INSERT INTO audit_log (actor, via, address, action, object, details) VALUES (%s, %s, %s, %s, %s, %s)
"""
_LATEST: LiteralString = """
SELECT position, at, actor, role, via, address, action, object, details FROM audit_log
WHERE (%(object)s = '' OR object = %(object)s) AND (%(who)s = '' OR actor = %(who)s)
    AND (%(before)s::bigint IS NULL OR position < %(before)s)
ORDER BY position DESC LIMIT %(limit)s
"""


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
