"""Resets and boosts: written down in Postgres first, with the audit log, then done in Redis.

So nothing is ever given that nobody is named for. A boost that Redis did not confirm is in force or is not, and ends at
its time either way; what Redis loses is lost to the caller, never won.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import LiteralString
from uuid import UUID

from msgspec import Struct

from ext_authz.db.postgres import Connection
from ext_authz.errors import ConfigError, Unavailable
from ext_authz.quotas.counters import Counter
from ext_authz.quotas.store import Given, QuotaStore
from ext_authz.tokens import audit
from ext_authz.tokens.model import Actor

NEEDS = {"audit_log": ("INSERT",), "quota_boosts": ("SELECT", "INSERT", "UPDATE")}
ENDING = {"quota_boosts": ("SELECT", "UPDATE")}
"""Of who takes boosts back."""
BATCH = 100
_PATIENCE = 30_000
"""Milliseconds from the look at a counter until it is too late: shorter than any boost, so that none is given that was
taken back already."""
_MADE: LiteralString = """
INSERT INTO quota_boosts (counter, amount, until, reason, made_by) VALUES (%s, %s, %s, %s, %s) RETURNING id
"""
_DUE: LiteralString = """
SELECT id, counter FROM quota_boosts WHERE ended_at IS NULL AND until <= now() ORDER BY until LIMIT %s
"""
_ENDED: LiteralString = "UPDATE quota_boosts SET ended_at = now() WHERE id = %s AND ended_at IS NULL"
_LIST: LiteralString = """
SELECT id, counter, amount, until, reason, made_at, made_by, ended_at FROM quota_boosts
WHERE %(all)s OR ended_at IS NULL ORDER BY made_at DESC LIMIT %(limit)s
"""
_RESET: LiteralString = "UPDATE quota_boosts SET ended_at = now() WHERE counter = %s AND ended_at IS NULL"


class Boost(Struct, frozen=True):
    """More than a limit, for the rest of a window at most."""

    id: UUID
    counter: str
    """Its key: the limit and the values that it counts by, with `SEPARATOR` between them."""
    amount: int
    until: datetime
    reason: str
    made_at: datetime
    made_by: str
    ended_at: datetime | None


async def reset(connection: Connection, store: QuotaStore, actor: Actor, counter: Counter, reason: str) -> None:
    """Raises Unavailable: repeat it, it does no harm."""
    before = await store.read(counter)
    details = {"by": counter.by, "used": before.used, "boost": before.boost, "reason": reason}
    async with connection.transaction():
        await audit.record(connection, actor, "quota.reset", f"limit:{counter.limit}", details)
    await store.reset(counter)
    await connection.execute(_RESET, (counter.key,))


async def boost(
    connection: Connection,
    store: QuotaStore,
    actor: Actor,
    counter: Counter,
    *,
    amount: int,
    lasts: timedelta,
    reason: str,
) -> datetime:
    """Until when: `lasts`, or the end of the window that is open or opens now, whichever comes first.

    Raises:
        ConfigError: the limit has no windows, or this one has a boost.
        Unavailable: it is not known to be in force.
    """
    if not counter.has_windows:
        hint = "reset it, or change the policy"
        raise ConfigError(f"{counter.limit} is no limit of windows or of the calendar, and cannot have a boost: {hint}")
    count = await store.read(counter)
    _ensure_none(counter, count.boost)
    window_end = counter.window_end(count.now)
    ends = min(count.ends or window_end, window_end)
    until = min(_time(count.now) + lasts, _time(ends))
    details = {"by": counter.by, "amount": amount, "until": until, "reason": reason}
    async with connection.transaction():
        ((boost_id,),) = await (
            await connection.execute(_MADE, (counter.key, amount, until, reason, actor.name))
        ).fetchall()
        await audit.record(connection, actor, "quota.boosted", f"limit:{counter.limit}", details)
    given = await store.boost(counter, str(boost_id), amount, window_end, count.now + _PATIENCE)
    if given is not Given.IN_FORCE:
        await connection.execute(_ENDED, (boost_id,))
        _ensure_none(counter, amount if given is Given.HAS_ONE else 0)
        raise Unavailable("redis", "it took too long, and nothing was given: repeat it")
    return until


async def end_due(connection: Connection, store: QuotaStore) -> int:
    """Take back what has expired, at most `BATCH`; how many there were. Several workers may do it at once."""
    due = await (await connection.execute(_DUE, (BATCH,))).fetchall()
    for boost_id, key in due:
        await store.end_boost(key, str(boost_id))
        await connection.execute(_ENDED, (boost_id,))
    return len(due)


async def boosts(connection: Connection, *, ended: bool, limit: int) -> list[Boost]:
    """The latest first; `ended`: those too that are in force no more."""
    cursor = await connection.execute(_LIST, {"all": ended, "limit": limit})
    return [Boost(*row) for row in await cursor.fetchall()]


def _ensure_none(counter: Counter, boosted: int) -> None:
    if boosted:
        raise ConfigError(
            f"{counter.limit} has a boost in this window already: let it end, or reset the counter with tollgate "
            "quota reset, which ends it"
        )


def _time(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)
