"""What the ledger answers: usage, decisions by id or by what they are about, and the tokens that it has seen lately.

Periods are `[since, until)`; an event counts when Redis took it, so two adjacent periods never share one.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any, BinaryIO, LiteralString, NamedTuple
from uuid import UUID

import msgspec
from msgspec import Struct
from psycopg.errors import InsufficientPrivilege
from pydantic import SecretStr
from redis.asyncio import Redis
from redis.exceptions import RedisError

from ext_authz.db import redis_keys, tables
from ext_authz.db.causes import redis_cause
from ext_authz.db.postgres import Connection
from ext_authz.db.redis import connected
from ext_authz.errors import TollgateError, Unavailable
from ext_authz.ledger.event import COLUMNS, StoredEvent, StoredOutcome, decode_outcome, decode_record
from ext_authz.ledger.selection import GROUPS, Selection
from ext_authz.ledger.stream import Row, StreamEntry, entries_of, parse
from ext_authz.settings import StoreSettings

READS = {"usage_events": ("SELECT",), "call_outcomes": ("SELECT",)}
BATCH = 2000
_encoder = msgspec.json.Encoder()
_REDIS_SECONDS = 5.0
_EARLY_MS, _LATE_MS = 2_000, 60_000
"""How much earlier or later than its decision id an event may enter the stream: clocks differ, Redis may be away."""

_NAMES: LiteralString = f"{', '.join(COLUMNS).replace('facts', 'facts::text')}, row_to_json(call_outcomes)::text"
_WITH_OUTCOME: LiteralString = "LEFT JOIN call_outcomes USING (decision_id)"
_BY_ID: LiteralString = f"""
SELECT {_NAMES} FROM usage_events {_WITH_OUTCOME} WHERE decision_id = %s
"""  # noqa: S608 - constants
_PERIOD: LiteralString = f"""
SELECT {_NAMES} FROM usage_events {_WITH_OUTCOME} WHERE occurred_at >= %s AND occurred_at < %s
"""  # noqa: S608 - constants
# An id begins with its time: the primary key has the decisions of a period in order.
_LATEST: LiteralString = """
    decision_id >= %(first_id)s AND decision_id < %(last_id)s AND occurred_at >= %(since)s AND occurred_at < %(until)s
"""
_REJECTS: LiteralString = """
SELECT received_at AT TIME ZONE 'UTC', stream, entry_id, reason FROM usage_rejects
WHERE received_at >= %s AND received_at < %s ORDER BY id
"""
_COUNT_REJECTS: LiteralString = "SELECT count(*) FROM usage_rejects WHERE received_at >= %s AND received_at < %s"


class Rejected(NamedTuple):
    """An event that could not become a row of the ledger."""

    received_at: datetime
    stream: str
    entry_id: str
    reason: str


async def usage_of(connection: Connection, which: Selection, by: Sequence[str]) -> tuple[list[str], list[Any]]:
    """How often each of `by` (`GROUPS`) had each outcome: the columns, and their rows in order."""
    keys = {column: term for group in by for column, term in GROUPS[group].items()} | {"outcome": "reason"}
    others: dict[str, LiteralString] = {"username": "max(username)"} if "user" in by else {}
    others["count"] = "count(*)"
    numbers: LiteralString = ", ".join([str(number) for number in range(1, len(keys) + 1)])
    query: LiteralString = f"""
        SELECT {", ".join([*keys.values(), *others.values()])}
        FROM ({which.rows("occurred_at >= %(since)s AND occurred_at < %(until)s")}) AS call
        GROUP BY {numbers} ORDER BY {numbers}
    """  # noqa: S608 - constants
    cursor = await connection.execute(query, which.values())
    return [*keys, *others], await cursor.fetchall()


async def newest(connection: Connection) -> datetime | None:
    """When the last decision was made that the usage worker has moved; None: there is none."""
    cursor = await connection.execute("SELECT occurred_at FROM usage_events ORDER BY decision_id DESC LIMIT 1")
    return next((at for (at,) in await cursor.fetchall()), None)


async def latest(connection: Connection, which: Selection, limit: int) -> list[StoredEvent]:
    """The latest decisions, the last one first."""
    query: LiteralString = f"""
        SELECT {_NAMES} FROM ({which.rows(_LATEST)}) AS found {_WITH_OUTCOME}
        ORDER BY decision_id DESC LIMIT %(limit)s
    """  # noqa: S608 - constants
    cursor = await connection.execute(query, {**which.values(), "limit": limit})
    return [_joined(row) for row in await cursor.fetchall()]


async def rejects_of(connection: Connection, since: datetime, until: datetime) -> list[Rejected]:
    """Those that arrived in the period, oldest first."""
    cursor = await connection.execute(_REJECTS, (since, until))
    return [Rejected(*row) for row in await cursor.fetchall()]


async def count_rejects(connection: Connection, since: datetime, until: datetime) -> int:
    """0 for a role that may not read them."""
    try:
        cursor = await connection.execute(_COUNT_REJECTS, (since, until))
    except InsufficientPrivilege:
        return 0
    ((count,),) = await cursor.fetchall()
    return int(count)


async def find_event(decision_id: UUID, settings: StoreSettings) -> StoredEvent:
    """From the stream first: what the usage worker moves meanwhile is found in Postgres then.

    Raises:
        TollgateError: there is no such decision.
        Unavailable: Redis or Postgres does not answer, and the other does not have it.
    """
    url, outage = settings.redis_url.get_secret_value(), None
    try:
        async with connected(url, shards=settings.redis_shards, seconds=_REDIS_SECONDS) as clients:
            found = await find_in_stream(clients, decision_id)
    except RedisError as failure:
        found, outage = None, Unavailable("redis", redis_cause(failure))
    if found is None:
        async with tables.connected(settings.database_url, READS) as connection:
            found = await find_in_postgres(connection, decision_id)
    if found is None:
        raise outage or TollgateError(f"there is no decision {decision_id}")
    return found


async def find_in_postgres(connection: Connection, decision_id: UUID) -> StoredEvent | None:
    """None if it is not there (yet)."""
    cursor = await connection.execute(_BY_ID, (decision_id,))
    rows = await cursor.fetchall()
    return _joined(rows[0]) if rows else None


async def find_in_stream(shards: Sequence[Redis], decision_id: UUID) -> StoredEvent | None:
    """Among those that the usage worker has not moved yet. Raises RedisError."""
    minted_at = decision_id.int >> 80
    for shard, redis in enumerate(shards):
        start = f"{max(0, minted_at - _EARLY_MS)}"
        while page := await _page(redis, shard, start, f"{minted_at + _LATE_MS}"):
            for row in map(parse, page):
                if isinstance(row, Row) and row.decision_id == decision_id:
                    return stored_event(row.cells)
            start = f"({page[-1].id}"
    return None


async def _page(redis: Redis, shard: int, start: str, end: str) -> list[StreamEntry]:
    answer: Any = await redis.xrange(redis_keys.events(shard), start, end, count=BATCH)
    return entries_of(answer)


async def iterate_events(
    connection: Connection, since: datetime, until: datetime, *, batch: int = BATCH
) -> AsyncGenerator[list[StoredEvent]]:
    """The events of a period in one snapshot, nearly in the order of time; close it (`aclosing`), it holds a
    transaction."""
    async with connection.transaction(), connection.cursor(name="decisions") as cursor:
        cursor.itersize = batch
        await cursor.execute(_PERIOD, (since, until), binary=True)
        while rows := await cursor.fetchmany(batch):
            yield [_joined(row) for row in rows]


async def export_events(database_url: SecretStr, since: datetime, until: datetime, out: BinaryIO) -> None:
    """Write the events of a period, one JSON object per line.

    Raises:
        Unavailable: "postgres".
    """
    async with (
        tables.connected(database_url, READS) as connection,
        aclosing(iterate_events(connection, since, until)) as batches,
    ):
        async for batch in batches:
            out.write(_encoder.encode_lines(batch))


def _joined(row: Sequence[Any]) -> StoredEvent:
    """From a row of Postgres."""
    *cells, outcome = row
    return stored_event(cells, decode_outcome(outcome) if outcome else None)


def stored_event(cells: Sequence[Any], outcome: StoredOutcome | None = None) -> StoredEvent:
    """From the cells of a row, also of one that is to be written."""
    decision_id, *texts, username, occurred_at, record = cells
    if isinstance(occurred_at, float):
        occurred_at = datetime.fromtimestamp(occurred_at, UTC)
    rest = {"username": username, "occurred_at": occurred_at, "record": decode_record(record), "outcome": outcome}
    return StoredEvent(str(decision_id), *texts, **rest)


class Sighting(Struct, frozen=True):
    """The tokens that a revocation affects. A trigger of `usage_events` writes them to `tokens_seen`, refused ones too
    (db/migrations/0006)."""

    lately: int = 0
    """How many were seen in the last 24 hours."""
    last_at: datetime | None = None
    """When one was seen last, within a week (`postgres.TOKENS_KEPT`)."""
    client: str = ""
    """Of the token that was seen last."""


class User(Struct, frozen=True, order=True):
    """A user with a name that was searched for."""

    issuer: str
    """Its name in the policy."""
    subject: str
    username: str
    last_at: datetime


_SEEN_BY: Mapping[str, LiteralString] = {
    "token": "token_id",
    "session": "session",
    "user": "subject",
    "client": "client",
}
"""By `revocation.entry.Kind`; an issuer is its own column."""


async def sighting(connection: Connection, kind: str, issuer: str, value: str, *, iss: str = "") -> Sighting:
    """`iss`: the issuer's URL, if known, for tokens that were seen without a decision record."""
    column = _SEEN_BY.get(kind)
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
    """All users seen lately with this name, whatever the case (Keycloak's names have none)."""
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
