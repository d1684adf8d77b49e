"""Forgets what decisions went by when TOLLGATE_FACTS_KEEP says so, and which tokens were seen after a week.

The rows of the ledger stay: bills rest on them.
"""

from __future__ import annotations

from datetime import timedelta

from ext_authz.db.postgres import Connection

SLICE = timedelta(minutes=10)
"""Of one transaction: none is long, however much there is to forget."""

# Locked while it works, so that of several workers one does it.
_SINCE = "SELECT since, least(since + %s, now() - %s) FROM usage_facts FOR UPDATE SKIP LOCKED"
_FORGET = """
UPDATE usage_events SET facts = NULL WHERE occurred_at >= %s AND occurred_at < %s AND facts IS NOT NULL
"""
_FORGOTTEN = "UPDATE usage_facts SET since = %s"


TOKENS_KEPT = timedelta(days=7)
"""Since a token was last seen: longer than one lives, or there would be little left to revoke."""


async def forget_facts(connection: Connection, keep: timedelta) -> int:
    """Of decisions older than `keep`; returns of how many."""
    forgotten, whole_slice = 0, True
    while whole_slice:
        async with connection.transaction():
            rows = await (await connection.execute(_SINCE, (SLICE, keep))).fetchall()
            if not rows or rows[0][1] <= rows[0][0]:
                break
            since, until = rows[0]
            forgotten += (await connection.execute(_FORGET, (since, until))).rowcount
            await connection.execute(_FORGOTTEN, (until,))
            whole_slice = until - since == SLICE
    return forgotten


async def forget_tokens(connection: Connection, facts_keep: timedelta | None) -> int:
    """Those that were not seen for `TOKENS_KEPT`, or for as long as facts are kept; returns how many."""
    kept = min(TOKENS_KEPT, facts_keep or TOKENS_KEPT)
    return (await connection.execute("DELETE FROM tokens_seen WHERE last_seen_at < now() - %s", (kept,))).rowcount
