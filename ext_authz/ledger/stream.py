"""The ledger's stream of one shard in Redis, and what its entries become: rows of `usage_events`, or rejects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
from msgspec.structs import astuple
from redis.asyncio import Redis
from redis.exceptions import OutOfMemoryError, ResponseError

from ext_authz.db import redis_keys
from ext_authz.db.redis_keys import LEDGER_GROUP
from ext_authz.decision import Reason
from ext_authz.ledger.event import COLUMNS, cut, decode, with_fields
from ext_authz.policy.model import BUDGET

BLOCK_MS = 500
"""How long a read waits for the next event; also how long a stop may take."""
NEVER_MS = 2**40
"""No consumer is idle for longer."""

# The fields of an entry, and the values that settle.lua gives them.
EVENT, OUTCOME, LIMITED_BY, REVOKED_BY = b"e", b"o", b"l", b"r"
OUTCOMES = {
    b"0": ("", ""),
    b"1": ("revoked", "revoked"),
    b"2": ("over_limit", "over_limit"),
    b"5": ("", "dry_run_over_limit"),
}
"""Reason and code of an event that was "allowed" before the settlement; empty: as the event says."""
_OF_BUDGETS = f"{BUDGET}\x1f"
"""The beginning of their counters, as `settlement.model.counter_key` writes them."""
REVOKED = {b"0": "token", b"1": "session", b"2": "user", b"3": "client", b"4": "issuer"}

Cell = UUID | float | str | None
_REASON, _CODE = map(COLUMNS.index, ("reason", "code"))
_ISSUER, _DEGRADED, _USERNAME = map(COLUMNS.index, ("issuer", "degraded", "username"))
_AFTER_SETTLEMENT = frozenset({Reason.UNAVAILABLE.value, Reason.INTERNAL.value})


class StreamEntry(NamedTuple):
    """As Redis delivered it."""

    id: str
    fields: Mapping[bytes, bytes]

    @property
    def seconds(self) -> float:
        """When Redis took it."""
        return int(self.id.partition("-")[0]) / 1000

    @property
    def raw(self) -> bytes:
        return msgspec.msgpack.encode(dict(self.fields))


def entries_of(answer: Iterable[tuple[bytes, Mapping[bytes, bytes]]]) -> list[StreamEntry]:
    """From the answer of XRANGE, or of XREADGROUP for one stream."""
    return [StreamEntry(entry_id.decode(), fields) for entry_id, fields in answer]


class Row(NamedTuple):
    """For `usage_events`; `cells` are in the order of COLUMNS."""

    entry: StreamEntry
    decision_id: UUID
    cells: tuple[Cell, ...]

    @property
    def payload(self) -> tuple[Cell, ...]:
        """What two events of one decision must agree in: all but the time at which Redis took it, the user's name and
        the record."""
        return self.cells[:_USERNAME]

    def without_record(self) -> Row:
        return self._replace(cells=(*self.payload, "", self.cells[-2], None))


class Reject(NamedTuple):
    """An entry for `usage_rejects`, and why."""

    entry: StreamEntry
    reason: str


def parse(entry: StreamEntry) -> Row | Reject:
    """Never raises: every entry of the stream ends up in one table or the other."""
    try:
        return _row(entry)
    except KeyError as missing:
        return Reject(entry, f"no field e, or unknown outcome: {missing}")
    except Exception as wrong:  # noqa: BLE001 - not JSON, not UTF-8, too deep: one entry must not stop the others
        return Reject(entry, f"not a usage event: {wrong}")


def _row(entry: StreamEntry) -> Row:
    event = decode(entry.fields[EVENT])
    reason, code = OUTCOMES[entry.fields[OUTCOME]]
    decision_id = UUID(event.decision_id)
    limited_by = entry.fields.get(LIMITED_BY, b"").decode(errors="replace") or event.limited_by
    revoked_by = REVOKED.get(entry.fields.get(REVOKED_BY, b""), "") or event.revoked_by
    record = with_fields(bytes(event.record), limited_by=cut(limited_by), revoked_by=revoked_by).decode()
    if code == "over_limit" and limited_by.startswith(_OF_BUDGETS):
        code = "over_budget"
    settled = (decision_id, reason or event.reason, code or event.code)
    rest = (event.username, entry.seconds, record or None)
    return Row(entry, decision_id, (*settled, *astuple(event)[_ISSUER : _DEGRADED + 1], *rest))


def is_superseded(payload: Sequence[Cell], by: Sequence[Cell]) -> bool:
    """Whether both are about one call, and only `by` says that the answer differs from what Redis settled.

    With 503, or degraded: the settlement came too late or was lost. With 500: a bug after the settlement.
    """
    same_call = payload[:_REASON] == by[:_REASON] and payload[_ISSUER:_DEGRADED] == by[_ISSUER:_DEGRADED]
    return same_call and not _differs_from_settled(payload) and _differs_from_settled(by)


def _differs_from_settled(payload: Sequence[Cell]) -> bool:
    return payload[_REASON] in _AFTER_SETTLEMENT or payload[_DEGRADED] == "redis"


class LedgerStream:
    """As one consumer of the group sees it. Entries leave the stream only through `done`.

    Every method raises RedisError if Redis does not answer.
    """

    def __init__(self, redis: Redis, consumer: str, shard: int) -> None:
        self.name = redis_keys.events(shard)
        self._redis = redis
        self._consumer = consumer
        self._pending = True
        self._no_room: OutOfMemoryError | None = None
        """Why there is no group: Redis is full. Entries are then read without one, until there is room for it."""

    async def open(self) -> None:
        """Join the group; if it is gone (a flush), create it from the first entry on."""
        self._pending, self._no_room = True, None
        try:
            await self.adopt(NEVER_MS)  # creating a group needs memory, joining one does not
        except ResponseError as answer:
            if not str(answer).startswith("NOGROUP"):
                raise
            await self._create_group()

    async def _create_group(self) -> None:
        try:
            await self._redis.xgroup_create(self.name, LEDGER_GROUP, id="0", mkstream=True)
            self._no_room = None
        except OutOfMemoryError as full:
            self._no_room = full
        except ResponseError as answer:
            if not str(answer).startswith("BUSYGROUP"):
                raise

    async def adopt(self, idle_ms: int) -> None:
        """Take over the entries that a consumer has not finished for so long. If it is not dead, they are moved twice,
        which is harmless."""
        cursor: Any = "0-0"
        while not self._no_room:
            answer: Any = await self._redis.xautoclaim(
                self.name, LEDGER_GROUP, self._consumer, idle_ms, start_id=cursor, count=1000
            )
            cursor = answer[0]
            self._pending = self._pending or bool(answer[1])  # they come with the next read
            if cursor == b"0-0":
                return

    async def read(self, count: int) -> list[StreamEntry]:
        """What was delivered to this consumer before and not finished; then new entries, waiting a little for them."""
        if self._no_room:
            return await self._read_without_group(count)
        if self._pending:
            unfinished = await self._read("0", count, block=None)
            self._pending = bool(unfinished)
            if unfinished:
                return unfinished
        return await self._read(">", count, block=BLOCK_MS)

    async def _read_without_group(self, count: int) -> list[StreamEntry]:
        """From the first entry on; another worker may read the same, and Postgres takes each once."""
        answer: Any = await self._redis.xrange(self.name, count=count)
        if not answer and self._no_room:
            raise self._no_room  # something else than the ledger fills Redis
        return entries_of(answer)

    async def done(self, entries: Sequence[StreamEntry]) -> None:
        """Delete entries that are in Postgres, then acknowledge them.

        In this order: what is deleted but not acknowledged is found again, what is acknowledged but not deleted never
        is. Not in a transaction, which a full Redis refuses.
        """
        ids = [entry.id for entry in entries]
        await self._redis.xdel(self.name, *ids)
        await self._redis.xack(self.name, LEDGER_GROUP, *ids)
        if self._no_room:
            await self._create_group()

    async def depth(self) -> int:
        return int(await self._redis.xlen(self.name))

    async def age(self) -> float:
        """Seconds since the oldest entry was added, by Redis' clock."""
        first: Any = await self._redis.xrange(self.name, count=1)
        if not first:
            return 0.0
        seconds, microseconds = await self._redis.time()
        oldest = StreamEntry(first[0][0].decode(), {}).seconds
        return float(max(0.0, seconds + microseconds / 1e6 - oldest))

    async def _read(self, start: str, count: int, block: int | None) -> list[StreamEntry]:
        answer: Any = await self._redis.xreadgroup(LEDGER_GROUP, self._consumer, {self.name: start}, count, block)
        return entries_of(answer[0][1]) if answer else []
