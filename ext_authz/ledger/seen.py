"""Which tokens the ledger has seen lately, for operators: whom a name belongs to, and what a revocation hits.

A trigger of `usage_events` writes `tokens_seen` (db/migrations/0006): one row per token, refused ones too.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import LiteralString

from msgspec import Struct

from ext_authz.db.postgres import Connection

_COLUMNS: Mapping[str, LiteralString] = {
    "token": "token_id",
    "session": "session",
    "user": "subject",
    "client": "client",
}
"""By `revocation.entry.Kind`; an issuer is its own column."""


class Sighting(Struct, frozen=True):
    """The tokens that one revocation is about."""

    lately: int = 0
    """How many were seen in the last 24 hours."""
    last_at: datetime | None = None
    """When one was seen last, within a week (`retention.TOKENS_KEPT`)."""
    client: str = ""
    """Of the one that was seen last."""


class User(Struct, frozen=True, order=True):
    """Who goes by a name."""

    issuer: str
    """Its name in the policy."""
    subject: str
    username: str
    last_at: datetime


async def sighting(connection: Connection, kind: str, issuer: str, value: str, *, iss: str = "") -> Sighting:
    """`iss`: the issuer's URL, if known, for tokens whose issuer's name was not kept."""
    column = _COLUMNS.get(kind)
    condition: LiteralString = f"{column} = %(value)s AND " if column else ""
    query: LiteralString = f"""
        WITH hit AS MATERIALIZED (
            SELECT last_seen_at, client FROM tokens_seen
            WHERE {condition}(issuer = %(issuer)s OR (issuer = '' AND iss = %(iss)s))
        )
        SELECT count(*) FILTER (WHERE last_seen_at > now() - interval '24 hours'), max(last_seen_at),
            (SELECT client FROM hit ORDER BY last_seen_at DESC LIMIT 1)
        FROM hit
    """  # noqa: S608 - constants
    cursor = await connection.execute(query, {"value": value, "issuer": issuer, "iss": iss})
    ((lately, last_at, client),) = await cursor.fetchall()
    return Sighting(lately, last_at, client or "")


async def users_named(connection: Connection, username: str) -> list[User]:
    """Everybody who was seen under this name lately, upper and lower case alike (Keycloak's names have none)."""
    query = """
        SELECT issuer, subject, min(username), max(last_seen_at) FROM tokens_seen
        WHERE username <> '' AND lower(username) = lower(%s) GROUP BY issuer, subject
    """
    cursor = await connection.execute(query, (username,))
    return sorted(User(*row) for row in await cursor.fetchall())


async def issuers_seen(connection: Connection) -> dict[str, str]:
    """Names of issuers, with their URLs."""
    cursor = await connection.execute("SELECT DISTINCT issuer, iss FROM tokens_seen WHERE issuer <> ''")
    return dict(await cursor.fetchall())
