"""Whose state is to be looked up next, in the table `polled_owners`. Each function is for the caller's transaction."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import LiteralString

from msgspec import Struct

from ext_authz.db.postgres import Connection
from ext_authz.policy.issuers import Issuer
from ext_authz.tokens.model import SERVICE

NOTHING_KNOWN, MANY, HAPPENED = range(3)
"""Priorities: it is looked up in its turn; it is one of many; something happened to this one."""

# Who has called since any token of theirs may still be valid, or has an API token that is not revoked.
_LEARN: LiteralString = """
INSERT INTO polled_owners AS held (issuer, subject, priority, seen_at)
SELECT %(name)s, subject, 1, max(seen_at) FROM (
    SELECT subject, last_seen_at AS seen_at FROM tokens_seen
    WHERE iss = %(iss)s AND last_seen_at > now() - %(age)s::interval
    UNION ALL
    SELECT DISTINCT subject, NULL::timestamptz FROM grants WHERE issuer = %(name)s AND revoked_at IS NULL
) AS known
GROUP BY subject
ON CONFLICT (issuer, subject) DO UPDATE SET seen_at = excluded.seen_at
WHERE excluded.seen_at > coalesce(held.seen_at, '-infinity') + interval '5 minutes'
"""
_FORGET: LiteralString = """
DELETE FROM polled_owners AS held WHERE issuer = %(name)s AND priority = 0
    AND coalesce(seen_at, due_at) < now() - %(age)s::interval - interval '10 minutes'
    AND NOT EXISTS (SELECT FROM grants WHERE grants.issuer = held.issuer AND grants.subject = held.subject
                    AND revoked_at IS NULL)
"""
_RAISE: LiteralString = """
INSERT INTO polled_owners AS held (issuer, subject, priority, enabled)
SELECT %(issuer)s, subject, 2, known FROM unnest(%(subjects)s::text[], %(known)s::boolean[]) AS given (subject, known)
ON CONFLICT (issuer, subject) DO UPDATE SET priority = 2, due_at = clock_timestamp(), not_until = '-infinity',
    enabled = coalesce(held.enabled, excluded.enabled)
"""
_RAISE_ALL: LiteralString = """
UPDATE polled_owners SET priority = greatest(priority, 1), due_at = clock_timestamp() WHERE issuer = %s
"""
_DUE: LiteralString = """
SELECT subject, priority, due_at, held.enabled, not_before, coalesce(owners."group", ''), EXISTS (
    SELECT FROM grants WHERE grants.issuer = held.issuer AND grants.subject = held.subject AND revoked_at IS NULL)
FROM polled_owners AS held LEFT JOIN owners USING (issuer, subject)
"""
_FIRST: LiteralString = f"""
{_DUE} WHERE issuer = %(issuer)s AND priority > 0 AND not_until <= now()
ORDER BY priority DESC, held.seen_at DESC NULLS LAST LIMIT %(most)s
"""
_OLDEST: LiteralString = f"""
{_DUE} WHERE issuer = %(issuer)s AND priority = 0 AND not_until <= now()
    AND held.checked_at < now() - make_interval(secs => %(age)s)
ORDER BY held.checked_at LIMIT %(most)s
"""
_DONE: LiteralString = """
UPDATE polled_owners SET checked_at = now(), enabled = %(enabled)s, not_before = greatest(not_before, %(not_before)s),
    priority = CASE WHEN due_at = %(due_at)s THEN 0 ELSE priority END
WHERE issuer = %(issuer)s AND subject = %(subject)s
"""
_POSTPONE: LiteralString = """
UPDATE polled_owners SET not_until = now() + make_interval(secs => %(seconds)s)
WHERE issuer = %(issuer)s AND subject = %(subject)s
"""
_WAITING: LiteralString = """
SELECT count(*) FILTER (WHERE priority > 0), count(*),
    coalesce(extract(epoch FROM now() - min(coalesce(checked_at, due_at))), 0)::float8
FROM polled_owners WHERE issuer = %s
"""


class Due(Struct, frozen=True):
    """Somebody to look up."""

    subject: str
    priority: int
    due_at: datetime
    enabled: bool | None
    """When last looked up; None: not found so far."""
    not_before: datetime | None
    group: str
    """Of a service account."""
    has_grants: bool

    @property
    def is_service(self) -> bool:
        return self.subject.startswith(SERVICE)


class Waiting(Struct, frozen=True):
    due: int
    known: int
    age: float
    """Seconds since the one was looked up that was not for the longest time."""


async def learn(connection: Connection, issuer: Issuer) -> None:
    """Add whoever is known now, and forget who no longer is."""
    values = {"name": issuer.name, "iss": issuer.issuer, "age": f"{issuer.max_token_age + issuer.leeway} seconds"}
    await connection.execute(_LEARN, values)
    await connection.execute(_FORGET, values)


async def raise_some(connection: Connection, issuer: str, subjects: Iterable[str], deleted: Iterable[str]) -> None:
    """Something happened to each. Of `deleted` it is known that the identity provider had them."""
    known = {**dict.fromkeys(subjects), **dict.fromkeys(deleted, True)}
    if known:
        values = {"issuer": issuer, "subjects": list(known), "known": list(known.values())}
        await connection.execute(_RAISE, values)


async def raise_all(connection: Connection, issuer: Issuer) -> None:
    """Something happened that may concern everybody: also who has called for the first time just now."""
    await learn(connection, issuer)
    await connection.execute(_RAISE_ALL, (issuer.name,))


async def due(connection: Connection, issuer: str, most: int) -> list[Due]:
    """Those to whom something happened, or may have; whom it concerns most comes first."""
    cursor = await connection.execute(_FIRST, {"issuer": issuer, "most": most})
    return [Due(*row) for row in await cursor.fetchall()]


async def oldest(connection: Connection, issuer: str, most: int, age: float) -> list[Due]:
    """Of the others, those that were not looked up for so many seconds."""
    cursor = await connection.execute(_OLDEST, {"issuer": issuer, "most": most, "age": age})
    return [Due(*row) for row in await cursor.fetchall()]


async def done(
    connection: Connection, issuer: str, one: Due, *, enabled: bool | None, not_before: datetime | None
) -> None:
    """Looked up; due again only if something happened meanwhile."""
    values = {"issuer": issuer, "subject": one.subject, "due_at": one.due_at, "enabled": enabled}
    await connection.execute(_DONE, {**values, "not_before": not_before})


async def postpone(connection: Connection, issuer: str, subject: str, seconds: float) -> None:
    """Looking it up failed, and may fail again: others come first."""
    await connection.execute(_POSTPONE, {"issuer": issuer, "subject": subject, "seconds": seconds})


async def waiting(connection: Connection, issuer: str) -> Waiting:
    cursor = await connection.execute(_WAITING, (issuer,))
    ((due_now, known, age),) = await cursor.fetchall()
    return Waiting(due_now, known, age)
