"""Revocations in Postgres, the truth: what is written here is revoked, wherever the copies stand."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, LiteralString, TypeVar

from msgspec import Struct
from psycopg.errors import CheckViolation, DataError
from pydantic import SecretStr

from ext_authz.db.postgres import Connection, make_pool, pooled, within
from ext_authz.db.tables import ensure_usable
from ext_authz.errors import ConfigError
from ext_authz.revocation.change import COLUMNS, IN_FORCE, NEEDS, Change, change
from ext_authz.revocation.entry import Entry, Kind, entry_id

T = TypeVar("T")

Question = tuple[tuple[str, str, str, str, str], int]
"""The five revocation ids of a token, and its `iat`: `Ask.revocation` and `Ask.issued_at` of the settlement."""

# Triggers of the table (db/migrations/0005) write the history, and see to it that a second revocation never weakens one
# in force, which keeps its first actor, reason and time. Local to the transaction: a pooler may give the session away.
_WHO: LiteralString = "SELECT set_config('tollgate.actor', %s, true), set_config('tollgate.reason', %s, true)"

_ENTRY: LiteralString = "kind, issuer, value, not_before, expires_at, reason, actor, created_at"

_REVOKE: LiteralString = f"""
INSERT INTO revocations AS held (kind, issuer, value, not_before, expires_at) VALUES (%s, %s, %s, %s, %s)
ON CONFLICT (id) DO UPDATE SET not_before = excluded.not_before, lifted_at = NULL, expires_at =
    CASE WHEN held.lifted_at IS NULL THEN greatest(held.expires_at, excluded.expires_at) ELSE excluded.expires_at END
RETURNING {_ENTRY}, created_at < now(), {COLUMNS}
"""  # noqa: S608 - constants

_LIFT: LiteralString = f"""
UPDATE revocations SET lifted_at = now() WHERE id = %s AND {IN_FORCE} RETURNING {_ENTRY}, true, {COLUMNS}
"""  # noqa: S608 - constants

# Filtered, it reads revocations_kind_issuer_value; else revocations_created_at from its end.
_ENTRIES: LiteralString = f"""
SELECT {_ENTRY} FROM revocations
WHERE {IN_FORCE} AND (%(kinds)s::text[] IS NULL OR kind = ANY(%(kinds)s)) AND (%(issuer)s = '' OR issuer = %(issuer)s)
    AND (%(values)s::text[] IS NULL OR value = ANY(%(values)s))
    AND (%(since)s::timestamptz IS NULL OR created_at >= %(since)s)
    AND (%(after)s::text IS NULL OR (created_at, id) < (SELECT created_at, id FROM revocations WHERE id = %(after)s))
ORDER BY created_at DESC, id DESC LIMIT %(limit)s
"""  # noqa: S608 - constants

_REVOKED: LiteralString = f"""
SELECT asked.place, revocations.kind FROM unnest(%s::int[], %s::text[], %s::bigint[]) AS asked (place, id, issued_at)
JOIN revocations USING (id)
WHERE {IN_FORCE} AND (not_before IS NULL OR floor(extract(epoch FROM not_before)) >= asked.issued_at)
"""  # noqa: S608 - constants


class Recorded(Struct, frozen=True):
    """A revocation in force, with who revoked it first, when and why."""

    entry: Entry
    created_at: datetime

    @property
    def id(self) -> str:
        return entry_id(self.entry.kind, self.entry.issuer, self.entry.value)


class Written(Struct, frozen=True):
    """A row that was just written, for people and for the copies."""

    recorded: Recorded
    again: bool
    """It was in force before."""
    change: Change


class Filter(Struct, frozen=True, kw_only=True):
    """Which revocations to list."""

    kind: Kind | None = None
    issuer: str = ""
    users: Sequence[str] = ()
    """Only these subjects."""
    since: datetime | None = None
    after: str = ""
    """The id of the last one on the page before."""
    limit: int | None = None


EVERYTHING = Filter()


class RevocationStore:
    """Every method raises Unavailable("postgres") when there is no answer within `timeout` seconds."""

    def __init__(self, url: SecretStr, timeout: float) -> None:
        self._pool = make_pool(url.get_secret_value(), timeout=timeout)
        self._timeout = timeout

    async def start(self) -> None:
        """Does not wait for Postgres."""
        await self._pool.open()

    async def stop(self) -> None:
        await self._pool.close()

    async def revoke(self, entry: Entry) -> Written:
        """Committed when this returns. After Unavailable it is not known whether it was; to repeat it is safe.

        Raises:
            ConfigError: the table refuses such a row.
        """
        values = (entry.kind.label, entry.issuer, entry.value, entry.not_before, entry.expires_at)
        written = self._write(_REVOKE, values, entry.actor, entry.reason)
        return _written((await within(self._timeout, written))[0])

    async def lift(self, kind: Kind, issuer: str, value: str, *, actor: str = "", reason: str = "") -> Written | None:
        """None when nothing of that name is in force."""
        written = self._write(_LIFT, (entry_id(kind, issuer, value),), actor, reason)
        lifted = await within(self._timeout, written)
        return _written(lifted[0]) if lifted else None

    async def entries(self, wanted: Filter = EVERYTHING) -> list[Recorded]:
        """What is in force, the newest first."""
        kind = Kind.USER if wanted.users else wanted.kind
        values = {
            "kinds": [kind.label] if kind else None,
            "issuer": wanted.issuer,
            "values": list(wanted.users) or None,
            "since": wanted.since,
            "after": wanted.after or None,
            "limit": wanted.limit,
        }
        return [_recorded(row) for row in await within(self._timeout, self._read(_ENTRIES, values))]

    async def look(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Ask for something else of the same database, in the same time."""

        async def looked() -> T:
            async with pooled(self._pool) as connection:
                return await work(connection)

        return await within(self._timeout, looked())

    async def revoked(self, asks: Sequence[Question]) -> list[Kind | None]:
        """By what each is revoked (of several, the first in the order of `Kind`), in one round trip."""
        asked = [
            (place, entry_id, issued_at)
            for place, (entry_ids, issued_at) in enumerate(asks)
            for entry_id in entry_ids
            if _storable(entry_id)
        ]
        columns = tuple(list(column) for column in zip(*asked, strict=True)) or ([], [], [])
        found: list[set[Kind]] = [set() for _ in asks]
        for place, kind in await within(self._timeout, self._read(_REVOKED, columns)):
            found[place].add(Kind[kind.upper()])
        return [next((kind for kind in Kind if kind in hits), None) for hits in found]

    async def ensure_usable(self) -> None:
        """Ask as a check would, over the same connections, and learn what is missing if that fails."""

        async def ask() -> None:
            async with pooled(self._pool) as connection:
                await ensure_usable(connection, NEEDS, lambda asked: asked.execute(_REVOKED, ([], [], [])))

        await within(self._timeout, ask())

    async def _read(
        self, query: LiteralString, values: Sequence[object] | Mapping[str, object]
    ) -> list[tuple[Any, ...]]:
        async with pooled(self._pool) as connection:
            return await (await connection.execute(query, values)).fetchall()

    async def _write(
        self, query: LiteralString, values: Sequence[object], actor: str, reason: str
    ) -> list[tuple[Any, ...]]:
        try:
            async with pooled(self._pool) as connection, connection.transaction():
                await connection.execute(_WHO, (actor, reason))
                return await (await connection.execute(query, values)).fetchall()
        except (CheckViolation, DataError, UnicodeEncodeError) as refused:
            raise ConfigError(f"not a revocation: {str(refused).partition(chr(10))[0]}") from None


def _storable(entry_id: str) -> bool:
    """Text that Postgres cannot hold is in no row."""
    return entry_id != "" and "\0" not in entry_id and not any("\ud800" <= char <= "\udfff" for char in entry_id)


def _written(row: tuple[Any, ...]) -> Written:
    size = len(Recorded.__struct_fields__) + len(Entry.__struct_fields__) - 1
    return Written(_recorded(row[:size]), row[size], change(row[size + 1 :]))


def _recorded(row: tuple[Any, ...]) -> Recorded:
    kind, issuer, value, not_before, expires_at, reason, actor, created_at = row
    entry = Entry(
        kind=Kind[kind.upper()],
        issuer=issuer,
        value=value,
        not_before=not_before,
        expires_at=expires_at,
        reason=reason,
        actor=actor,
    )
    return Recorded(entry, created_at)
