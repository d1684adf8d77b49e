"""The usage that bills are made of: the only place that knows where it is read.

Quantities come from the sums by day, together with the changes that are not in them yet: what a count of all calls
would give at this moment. Spans begin and end with days. The calls behind a line come from the ledger, as long as it
keeps them.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from typing import Any, LiteralString, NamedTuple
from uuid import UUID

from ext_authz.billing.model import Amounts, Span, Usage, UsageKey
from ext_authz.db.postgres import Connection

_SPANS: LiteralString = """
unnest(%(issuers)s::text[], %(clients)s::text[], %(starts)s::timestamptz[], %(ends)s::timestamptz[],
    %(firsts)s::uuid[], %(lasts)s::uuid[]) AS span (issuer, client, since, until, first_id, last_id)
"""
_QUEUED, _CLOCKS_DIFFER = timedelta(days=7), timedelta(hours=1)
"""How much earlier or later than its event a decision id may have been minted: while Redis is away, events wait in
workers. The index by subject is in the order of ids: without them a few busy subjects could be a reason to read all."""
# Whoever makes an API token chooses its name, which the ledger has as its client: such calls belong to the owner.
_OWN: LiteralString = "starts_with(call.client, 'tollgate:')"
_CALLS: LiteralString = f"""
SELECT call.*, span.client AS billed_client FROM {_SPANS}
JOIN billable AS call ON call.issuer = span.issuer AND call.client = span.client AND NOT {_OWN}
    AND call.occurred_at >= span.since AND call.occurred_at < span.until
UNION ALL
SELECT call.*, span.client FROM {_SPANS}
JOIN billable AS call ON call.issuer = span.issuer AND call.subject = span.client AND call.subject <> '' AND {_OWN}
    AND call.decision_id >= span.first_id AND call.decision_id < span.last_id
    AND call.occurred_at >= span.since AND call.occurred_at < span.until
"""  # noqa: S608 - constants
# Few changes wait, but by its statistics Postgres may expect many, and read the whole ledger for them. Of an array it
# expects ten, and looks each up.
_SUMMED: LiteralString = f"""
SELECT held.day, held.issuer, span.client AS billed_client, held.model, held.model_version, held.outcome, held.billed,
    held.route, held.calls, held.requests, held.units, held.bytes_in, held.bytes_out, held.seconds
FROM {_SPANS} JOIN usage_daily AS held
    ON held.issuer = span.issuer AND usage_payer(held.client, held.subject) = span.client AND span.client <> ''
    AND held.day >= span.since AND held.day < span.until
UNION ALL
SELECT date_trunc('day', held.at, 'UTC'), held.issuer, span.client, held.model, held.model_version, held.outcome,
    held.billed, held.route, held.calls, held.requests, held.units, held.bytes_in, held.bytes_out, held.seconds
FROM {_SPANS} JOIN usage_unsummed AS held
    ON held.issuer = span.issuer AND usage_payer(held.client, held.subject) = span.client AND span.client <> ''
    AND held.at >= span.since AND held.at < span.until
WHERE held.decision_id = ANY (ARRAY(SELECT decision_id FROM usage_changes))
"""  # noqa: S608 - constants
_SUMS: LiteralString = f"""
SELECT issuer, billed_client, model, model_version, route, outcome, billed, sum(calls)::bigint,
    sum(requests)::bigint, sum(units)::bigint, sum(bytes_in)::bigint, sum(bytes_out)::bigint, sum(seconds)
FROM ({_SUMMED}) AS sums GROUP BY 1, 2, 3, 4, 5, 6, 7 HAVING sum(calls) <> 0
"""  # noqa: S608 - constants
_EVENTS: LiteralString = f"""
SELECT decision_id, occurred_at, issuer, billed_client, subject, model, model_version, route, outcome, billed,
    requests, units, bytes_in, bytes_out, seconds
FROM ({_CALLS}) AS calls WHERE %(after)s::uuid IS NULL OR decision_id > %(after)s
ORDER BY decision_id LIMIT %(limit)s
"""  # noqa: S608 - constants
_OF_NOBODY: LiteralString = """
WITH used AS (
    SELECT issuer, CASE WHEN starts_with(client, 'tollgate:') THEN subject ELSE client END AS client,
        (occurred_at AT TIME ZONE 'UTC')::date AS day, sum(requests) AS requests
    FROM billable WHERE occurred_at >= %(since)s AND occurred_at < %(until)s AND billed GROUP BY 1, 2, 3
)
SELECT issuer, client, sum(requests)::bigint FROM used
WHERE (SELECT account FROM billing_clients AS held
    WHERE held.issuer = used.issuer AND held.client = used.client AND held.since <= used.day
    ORDER BY held.since DESC LIMIT 1) IS NULL
GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2 LIMIT %(limit)s
"""
_BY_DAY: LiteralString = f"""
SELECT (day AT TIME ZONE 'UTC')::date, coalesce(sum(calls) FILTER (WHERE billed), 0)::bigint,
    coalesce(sum(calls) FILTER (WHERE NOT billed), 0)::bigint
FROM ({_SUMMED}) AS sums GROUP BY 1 HAVING bool_or(calls <> 0) ORDER BY 1
"""  # noqa: S608 - constants
EVENT = (
    *("decision_id", "occurred_at", "issuer", "client", "subject", "model", "model_version", "route", "outcome"),
    *("billed", "requests", "units", "bytes_in", "bytes_out", "seconds"),
)


class Day(NamedTuple):
    """Calls of one day."""

    day: date
    billed: int
    others: int


async def usage(connection: Connection, spans: Sequence[Span]) -> Usage:
    """Sums over the calls of these clients, each on its own days; spans of one client do not overlap."""
    cursor = await connection.execute(_SUMS, _columns(spans))
    return {UsageKey(*row[:7]): Amounts(*row[7:]) for row in await cursor.fetchall()}


async def events(
    connection: Connection, spans: Sequence[Span], *, after: object = None, limit: int
) -> list[dict[str, Any]]:
    """The calls themselves, with the fields of `EVENT`, in the order of their ids; after the one with this id."""
    cursor = await connection.execute(_EVENTS, {**_columns(spans), "after": after, "limit": limit})
    return [dict(zip(EVENT, row, strict=True)) for row in await cursor.fetchall()]


async def by_day(connection: Connection, spans: Sequence[Span]) -> list[Day]:
    """On each day, in UTC, that had some."""
    cursor = await connection.execute(_BY_DAY, _columns(spans))
    return [Day(*row) for row in await cursor.fetchall()]


async def of_nobody(connection: Connection, since: datetime, until: datetime, limit: int) -> list[tuple[str, str, int]]:
    """Issuer, client and billed requests of clients that no account pays for, the most first."""
    cursor = await connection.execute(_OF_NOBODY, {"since": since, "until": until, "limit": limit})
    return [(issuer, client, requests) for issuer, client, requests in await cursor.fetchall()]


def _columns(spans: Sequence[Span]) -> dict[str, Any]:
    return {
        "issuers": [span.issuer for span in spans],
        "clients": [span.client for span in spans],
        "starts": [span.since for span in spans],
        "ends": [span.until for span in spans],
        "firsts": [_first_id(span.since - _QUEUED) for span in spans],
        "lasts": [_first_id(span.until + _CLOCKS_DIFFER) for span in spans],
    }


def _first_id(at: datetime) -> UUID:
    """Of all decisions of this millisecond and later."""
    return UUID(int=max(0, int(at.timestamp() * 1000)) << 80)
