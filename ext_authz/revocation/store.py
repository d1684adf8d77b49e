"""Revocations in Postgres, the source of truth, and the history of their changes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from functools import partial
from typing import Any, LiteralString, TypeVar

from msgspec import Struct
from psycopg.errors import CheckViolation, DataError
from pydantic import SecretStr

from ext_authz.db.postgres import Connection, Pool
from ext_authz.db.tables import ensure_usable
from ext_authz.errors import ConfigError
from ext_authz.revocation.entry import UNSAID, Entry, Kind, Origin, Target, TokenIds, revoked_by, revoked_until
from ext_authz.revocation.feed import COLUMNS, IN_FORCE, NEEDS, Row, named

T = TypeVar("T")

Lookup = tuple[TokenIds, int]
"""The revocation ids of a token, and its `iat`."""

Together = Callable[[Connection], Awaitable[None]]
"""Writes what belongs to a revocation, after it in its transaction: both are committed, or neither."""

# Triggers of the table (db/migrations/0005) write the history, and prevent that a second revocation weakens one in
# force, which keeps its first actor, reason and time. Local to the transaction: a pooler may give the session away.
_WHO: LiteralString = """
SELECT set_config('tollgate.actor', %s, true), set_config('tollgate.reason', %s, true),
    set_config('tollgate.via', %s, true), set_config('tollgate.address', %s, true)
"""

_ENTRY: LiteralString = "kind, issuer, value, not_before, expires_at, reason, actor, created_at"
"""The fields of `Entry`, in their order."""

_REVOKE: LiteralString = f"""
INSERT INTO revocations AS held (kind, issuer, value, not_before, expires_at) VALUES (%s, %s, %s, %s, %s)
ON CONFLICT (id) DO UPDATE SET not_before = excluded.not_before, lifted_at = NULL, expires_at =
    CASE WHEN held.lifted_at IS NULL THEN greatest(held.expires_at, excluded.expires_at) ELSE excluded.expires_at END
RETURNING {COLUMNS}, created_at < now(), {_ENTRY}
"""  # noqa: S608 - constants

_LIFT: LiteralString = f"""
UPDATE revocations SET lifted_at = now() WHERE id = %s AND {IN_FORCE} RETURNING {COLUMNS}, true, {_ENTRY}
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

# Triggers write the history, of changes by SQL too.
_HISTORY: LiteralString = """
WITH latest AS (
    SELECT * FROM revocation_history
    WHERE (%(value)s::text IS NULL OR value IN (%(value)s, '') AND (value = %(value)s OR issuer = %(value)s))
        AND (%(kind)s::text IS NULL OR kind = %(kind)s) AND (%(issuer)s = '' OR issuer = %(issuer)s)
    ORDER BY position DESC LIMIT %(limit)s
)
SELECT at, change, kind, issuer, value, actor, role, reason, latest.not_before, latest.expires_at, earlier.*
FROM latest LEFT JOIN LATERAL (
    SELECT not_before, expires_at FROM revocation_history AS before
    WHERE (before.kind, before.issuer, before.value) = (latest.kind, latest.issuer, latest.value)
        AND before.position < latest.position
    ORDER BY before.position DESC LIMIT 1
) AS earlier ON true
ORDER BY position
"""


class Written(Struct, frozen=True):
    """A row that was just written."""

    row: Row
    """For the copies."""
    again: bool
    """It was in force before."""
    entry: Entry


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


class Change(Struct, frozen=True):
    """One change to one revocation."""

    at: datetime
    change: str
    """revoked, revoked again, changed, lifted or expired."""
    kind: str
    issuer: str
    value: str
    actor: str
    role: str
    """The role that was logged in to Postgres; empty for what was there before there was a history."""
    reason: str
    not_before: datetime | None
    expires_at: datetime
    not_before_then: datetime | None
    """Before this change, as the other one too; None where it is the first."""
    expires_at_then: datetime | None


class RevocationStore:
    """Every method raises Unavailable("postgres") when there is no answer within `timeout` seconds."""

    def __init__(self, url: SecretStr, timeout: float) -> None:
        self._pool = Pool(url.get_secret_value(), timeout=timeout)
        self.read = self._pool.run
        """Run a query of the caller's over the same connections, with the same timeout."""

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
        return (await self.revoke_all([entry]))[0]

    async def revoke_all(
        self, entries: Sequence[Entry], together: Together | None = None, origin: Origin = UNSAID
    ) -> list[Written]:
        """As `revoke`, in one transaction. What `together` raises is raised here, and nothing is written."""

        async def write(connection: Connection) -> list[Written]:
            rows = [written for entry in entries for written in await _revoke(connection, entry, origin)]
            if together is not None:
                await together(connection)
            return rows

        return await self._in_transaction(write)

    async def lift(
        self, target: Target, *, actor: str = "", reason: str = "", origin: Origin = UNSAID
    ) -> Written | None:
        """None when no such revocation is in force."""
        lifted = await self._in_transaction(
            partial(_written, query=_LIFT, values=(target.id,), who=(actor, reason, origin.via, origin.address))
        )
        return lifted[0] if lifted else None

    async def entries(self, wanted: Filter = EVERYTHING) -> list[Entry]:
        """The revocations in force, the newest first."""
        kind = Kind.USER if wanted.users else wanted.kind
        values = {
            "kinds": [kind.label] if kind else None,
            "issuer": wanted.issuer,
            "values": list(wanted.users) or None,
            "since": wanted.since,
            "after": wanted.after or None,
            "limit": wanted.limit,
        }

        async def rows(connection: Connection) -> list[tuple[Any, ...]]:
            return await (await connection.execute(_ENTRIES, values)).fetchall()

        return [_entry(*row) for row in await self.read(rows)]

    async def revoked(self, lookups: Sequence[Lookup]) -> list[Kind | None]:
        """By which kind each token is revoked, in one round trip."""
        return await self.read(partial(revoked, lookups=lookups))

    async def ensure_usable(self) -> None:
        """Query as a check would, over the same connections; says what is missing where that fails."""
        await self.read(lambda asked: ensure_usable(asked, NEEDS, lambda checked: named(checked, ())))

    async def _in_transaction(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        async def done(connection: Connection) -> T:
            try:
                async with connection.transaction():
                    return await work(connection)
            except (CheckViolation, DataError, UnicodeEncodeError) as refused:
                raise ConfigError(f"not a revocation: {str(refused).partition(chr(10))[0]}") from None

        return await self.read(done)


async def revoked(connection: Connection, lookups: Sequence[Lookup]) -> list[Kind | None]:
    """By which kind each token is revoked."""
    wanted = {entry_id for entry_ids, _ in lookups for entry_id in entry_ids if _storable(entry_id)}
    held = {row.id: row.held for row in await named(connection, list(wanted))}
    return [revoked_by(ids, issued_at, lambda each: revoked_until(held.get(each))) for ids, issued_at in lookups]


async def _revoke(connection: Connection, entry: Entry, origin: Origin) -> list[Written]:
    values = (entry.kind.label, entry.issuer, entry.value, entry.not_before, entry.expires_at)
    return await _written(connection, _REVOKE, values, (entry.actor, entry.reason, origin.via, origin.address))


async def _written(
    connection: Connection, query: LiteralString, values: Sequence[object], who: Sequence[str]
) -> list[Written]:
    await connection.execute(_WHO, who)
    rows = await (await connection.execute(query, values)).fetchall()
    width = len(Row._fields)
    return [Written(Row(*row[:width]), row[width], _entry(*row[width + 1 :])) for row in rows]


async def history(
    connection: Connection, *, value: str | None = None, kind: Kind | None = None, issuer: str = "", limit: int = 100
) -> list[Change]:
    """The latest changes, the oldest first; `value` of an issuer is its name."""
    wanted = {"value": value, "kind": kind.label if kind else None, "issuer": issuer, "limit": limit}
    cursor = await connection.execute(_HISTORY, wanted)
    return [Change(*row) for row in await cursor.fetchall()]


async def since_revoked(connection: Connection, kind: Kind, issuer: str, value: str) -> list[Change]:
    """The changes to one revocation since it last came into force; empty where it never did."""
    every = await history(connection, value=value or issuer, kind=kind, issuer=issuer)
    changes = [change for change in every if change.value == value]
    start = max((at for at, change in enumerate(changes) if change.change == "revoked"), default=0)
    return changes[start:]


def _storable(entry_id: str) -> bool:
    """Text that Postgres cannot hold is in no row."""
    return entry_id != "" and "\0" not in entry_id and not any("\ud800" <= char <= "\udfff" for char in entry_id)


def _entry(kind: str, *rest: Any) -> Entry:  # noqa: ANN401 - a row of _ENTRY
    fields = zip(Entry.__struct_fields__, (Kind.labelled(kind), *rest), strict=True)
    return Entry(**dict(fields))
