"""Decisions as the ledger has them, one by its id or a period of them: to explain, to export, to try a policy on."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from datetime import UTC, datetime
from typing import Any, LiteralString
from uuid import UUID

from msgspec import Struct
from redis.asyncio import Redis
from redis.exceptions import RedisError

from ext_authz.db import redis_keys, tables
from ext_authz.db.causes import redis_cause
from ext_authz.db.postgres import Connection
from ext_authz.db.redis import connected
from ext_authz.errors import TollgateError, Unavailable
from ext_authz.ledger.facts import Facts
from ext_authz.ledger.facts import decode as facts_of
from ext_authz.ledger.line import COLUMNS, Line, StreamEntry, parse
from ext_authz.settings import StoreSettings

READS = {"usage_events": ("SELECT",)}
BATCH = 2000
_REDIS_SECONDS = 5.0
_EARLY_MS, _LATE_MS = 2_000, 60_000
"""How much earlier or later than its decision id an event may enter the stream: clocks differ, Redis may be away."""

_NAMES: LiteralString = ", ".join(COLUMNS).replace("facts", "facts::text")
_BY_ID: LiteralString = f"SELECT {_NAMES} FROM usage_events WHERE decision_id = %s"  # noqa: S608 - constants
_PERIOD: LiteralString = f"""
SELECT {_NAMES} FROM usage_events WHERE occurred_at >= %s AND occurred_at < %s
"""  # noqa: S608 - constants


class RecordedDecision(Struct, frozen=True):
    """In the order of `line.COLUMNS`."""

    decision_id: UUID
    occurred_at: datetime
    """When the settlement took it."""
    issuer: str
    """`iss`."""
    subject: str
    client: str
    token_id: str
    route: str
    model: str
    model_version: str
    method: str
    path: str
    reason: str
    """`decision.Reason` value."""
    code: str
    policy: str
    """Hash."""
    degraded: str
    facts: Facts | None
    """None: the policy kept none (`explain: {keep: 0s}`), their time is over, or an older version wrote the event."""


async def find_decision(connection: Connection, decision_id: UUID) -> RecordedDecision | None:
    """None where the ledger in Postgres does not have it (yet)."""
    cursor = await connection.execute(_BY_ID, (decision_id,))
    rows = await cursor.fetchall()
    return _recorded(rows[0]) if rows else None


async def find_waiting(shards: Sequence[Redis], decision_id: UUID) -> RecordedDecision | None:
    """Among those that the usage worker has not moved yet. Raises RedisError."""
    minted_at = decision_id.int >> 80
    for shard, redis in enumerate(shards):
        start = f"{max(0, minted_at - _EARLY_MS)}"
        while page := await _page(redis, shard, start, f"{minted_at + _LATE_MS}"):
            for line in map(parse, page):
                if isinstance(line, Line) and line.row[0] == decision_id:
                    return _recorded(line.row)
            start = f"({page[-1].id}"
    return None


async def recorded_decision(decision_id: UUID, settings: StoreSettings) -> RecordedDecision:
    """From wherever it is: the stream first, since what the usage worker moves meanwhile is in Postgres then.

    Raises:
        TollgateError: nobody knows it.
        Unavailable: Redis or Postgres does not answer, and the other does not have it.
    """
    outage: Unavailable | None = None
    try:
        waiting = await _waiting(decision_id, settings)
    except RedisError as failure:
        waiting, outage = None, Unavailable("redis", redis_cause(failure))
    found = waiting or await _moved(decision_id, settings)
    if found is None and outage is not None:
        raise outage
    if found is None:
        raise TollgateError(f"there is no decision {decision_id}")
    return found


async def _waiting(decision_id: UUID, settings: StoreSettings) -> RecordedDecision | None:
    url, shards = settings.redis_url.get_secret_value(), settings.redis_shards
    async with connected(url, shards=shards, seconds=_REDIS_SECONDS) as clients:
        return await find_waiting(clients, decision_id)


async def _moved(decision_id: UUID, settings: StoreSettings) -> RecordedDecision | None:
    async with tables.connected(settings.database_url, READS) as connection:
        return await find_decision(connection, decision_id)


async def iterate_decisions(
    connection: Connection, since: datetime, until: datetime, *, batch: int = BATCH
) -> AsyncGenerator[list[RecordedDecision]]:
    """Those of `[since, until)` in one snapshot, nearly in the order of time; close it (`aclosing`), it holds a
    transaction."""
    async with connection.transaction(), connection.cursor(name="decisions") as cursor:
        cursor.itersize = batch
        await cursor.execute(_PERIOD, (since, until), binary=True)
        while rows := await cursor.fetchmany(batch):
            yield [_recorded(row) for row in rows]


async def _page(redis: Redis, shard: int, start: str, end: str) -> list[StreamEntry]:
    entries: Any = await redis.xrange(redis_keys.events(shard), start, end, count=BATCH)
    return [StreamEntry(entry_id.decode(), fields) for entry_id, fields in entries]


def _recorded(row: Sequence[Any]) -> RecordedDecision:
    occurred_at = datetime.fromtimestamp(row[1], UTC) if isinstance(row[1], float) else row[1]
    cells: list[Any] = [row[0], occurred_at, *row[2:-1], facts_of(row[-1])]
    return RecordedDecision(*cells)
