"""Usage per client from the ledger, for a period `[since, until)` in UTC."""

from __future__ import annotations

from datetime import datetime
from typing import LiteralString, NamedTuple

from ext_authz.db.pool import Connection

_BY_CLIENT: LiteralString = """
SELECT client, model, route, reason, count(*) FROM usage_events
WHERE occurred_at >= %s AND occurred_at < %s AND (%s::text IS NULL OR client = %s)
GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4
"""


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


def table(rows: list[Usage]) -> list[str]:
    """Aligned text, with a sum."""
    head = ("CLIENT", "MODEL", "ROUTE", "OUTCOME", "COUNT")
    body = [
        (row.client or "(nobody)", row.model or "-", row.route or "-", row.outcome, str(row.events)) for row in rows
    ]
    body.append(("total", "", "", "", str(sum(row.events for row in rows))))
    widths = [max(len(line[column]) for line in (head, *body)) for column in range(len(head))]
    return ["  ".join([*map(str.ljust, line[:-1], widths), line[-1].rjust(widths[-1])]) for line in (head, *body)]
