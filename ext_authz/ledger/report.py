"""Usage per client from the ledger, and what it could not take, for a period `[since, until)` in UTC."""

from __future__ import annotations

from datetime import datetime
from typing import LiteralString, NamedTuple

from psycopg.errors import InsufficientPrivilege

from ext_authz.db.postgres import Connection

_BY_CLIENT: LiteralString = """
SELECT client, model, route, reason, count(*) FROM usage_events
WHERE occurred_at >= %s AND occurred_at < %s AND (%s::text IS NULL OR client = %s)
GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4
"""


_REJECTS: LiteralString = """
SELECT received_at AT TIME ZONE 'UTC', stream, entry_id, reason FROM usage_rejects
WHERE received_at >= %s AND received_at < %s ORDER BY id
"""
_COUNT_REJECTS: LiteralString = "SELECT count(*) FROM usage_rejects WHERE received_at >= %s AND received_at < %s"


class Usage(NamedTuple):
    """How often one client met one outcome."""

    client: str
    """Empty for callers who were not recognised."""
    model: str
    route: str
    outcome: str
    """`decision.Reason` value."""
    events: int


async def usage_by_client(
    connection: Connection, since: datetime, until: datetime, client: str | None = None
) -> list[Usage]:
    """One client, or all of them. An event counts where Redis took it; two periods that touch never share one."""
    cursor = await connection.execute(_BY_CLIENT, (since, until, client, client))
    return [Usage(*row) for row in await cursor.fetchall()]


class Rejected(NamedTuple):
    """An event that could not become a row of the ledger."""

    received_at: datetime
    stream: str
    entry_id: str
    reason: str


async def rejects_of(connection: Connection, since: datetime, until: datetime) -> list[Rejected]:
    """Those that arrived in the period, oldest first."""
    cursor = await connection.execute(_REJECTS, (since, until))
    return [Rejected(*row) for row in await cursor.fetchall()]


async def count_rejects(connection: Connection, since: datetime, until: datetime) -> int:
    """0 for a role that may not know."""
    try:
        cursor = await connection.execute(_COUNT_REJECTS, (since, until))
    except InsufficientPrivilege:
        return 0
    ((count,),) = await cursor.fetchall()
    return int(count)


def table(rows: list[Usage]) -> list[str]:
    """Aligned text, with a sum."""
    head = ("CLIENT", "MODEL", "ROUTE", "OUTCOME", "COUNT")
    body = [
        (row.client or "(nobody)", row.model or "-", row.route or "-", row.outcome, str(row.events)) for row in rows
    ]
    body.append(("total", "", "", "", str(sum(row.events for row in rows))))
    widths = [max(len(line[column]) for line in (head, *body)) for column in range(len(head))]
    return ["  ".join([*map(str.ljust, line[:-1], widths), line[-1].rjust(widths[-1])]) for line in (head, *body)]
