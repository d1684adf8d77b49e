"""What became of revocations, change by change. Triggers write it (db/migrations/0005), of what SQL did too."""

from __future__ import annotations

from datetime import datetime
from typing import LiteralString

from msgspec import Struct

from ext_authz.db.postgres import Connection
from ext_authz.revocation.entry import Kind

_CHANGES: LiteralString = """
WITH latest AS (
    SELECT * FROM revocation_history
    WHERE (%(value)s::text IS NULL OR value IN (%(value)s, '') AND (value = %(value)s OR issuer = %(value)s))
        AND (%(kind)s::text IS NULL OR kind = %(kind)s) AND (%(issuer)s = '' OR issuer = %(issuer)s)
    ORDER BY position DESC LIMIT %(limit)s
)
SELECT at, change, kind, issuer, value, actor, role, reason, latest.not_before, latest.expires_at, earlier.*
FROM latest LEFT JOIN LATERAL (
    SELECT not_before, expires_at FROM revocation_history AS history
    WHERE (history.kind, history.issuer, history.value) = (latest.kind, latest.issuer, latest.value)
        AND history.position < latest.position
    ORDER BY history.position DESC LIMIT 1
) AS earlier ON true
ORDER BY position
"""


class Past(Struct, frozen=True):
    """One change to one revocation."""

    at: datetime
    change: str
    """revoked, revoked again, changed, lifted or expired."""
    kind: str
    issuer: str
    value: str
    actor: str
    """Who, as they say."""
    role: str
    """Who was logged in to Postgres; empty for what was there before there was a history."""
    reason: str
    not_before: datetime | None
    expires_at: datetime
    not_before_then: datetime | None
    """Before this change, as the other one too; None where it is the first."""
    expires_at_then: datetime | None


async def changes(
    connection: Connection, *, value: str | None = None, kind: Kind | None = None, issuer: str = "", limit: int = 100
) -> list[Past]:
    """The last ones, the oldest first; of an issuer `value` is its name."""
    wanted = {"value": value, "kind": kind.label if kind else None, "issuer": issuer, "limit": limit}
    cursor = await connection.execute(_CHANGES, wanted)
    return [Past(*row) for row in await cursor.fetchall()]


async def since_revoked(connection: Connection, kind: Kind, issuer: str, value: str) -> list[Past]:
    """What happened to one revocation since it was last revoked for the first time; empty where it never was."""
    past = [
        one for one in await changes(connection, value=value or issuer, kind=kind, issuer=issuer) if one.value == value
    ]
    start = max((at for at, one in enumerate(past) if one.change == "revoked"), default=0)
    return past[start:]
