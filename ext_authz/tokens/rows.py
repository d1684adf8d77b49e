"""Owners, grants and tokens in Postgres. Every function runs in the transaction of its caller."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, LiteralString
from uuid import UUID

from msgspec.structs import replace
from psycopg.rows import dict_row

from ext_authz.db.postgres import Connection
from ext_authz.identity import standing as of_owners
from ext_authz.identity.identity import is_text
from ext_authz.owners.known import ROW
from ext_authz.tokens.model import Grant, Owner, State, Token
from ext_authz.tokens.reach import Entitled

_OWNER: LiteralString = f"""SELECT kind, "group", {ROW} AS row FROM owners WHERE issuer = %s AND subject = %s"""  # noqa: S608
_ACCOUNTS: LiteralString = """
SELECT issuer, subject, kind, "group", username, enabled FROM owners
WHERE kind = 'service' AND (%(groups)s::text[] IS NULL OR issuer = %(issuer)s AND "group" = ANY(%(groups)s))
ORDER BY subject, issuer LIMIT 1000
"""

_GRANTS: LiteralString = """
SELECT grants.id, issuer, subject, owners.kind, owners."group", owners.username, owners.enabled, grants.name,
    grants.scopes, grants.models, grants.roles, grants.lifetime, grants.version, grants.created_at, grants.created_by,
    held.expires_at, grants.revoked_at, grants.revoked_by, held.last_used_at, held.last_used_from
FROM grants JOIN owners USING (issuer, subject)
CROSS JOIN LATERAL (
    SELECT max(least(ends_at, expires_at)) AS expires_at, max(used_at) AS last_used_at,
        coalesce((array_agg(used_from ORDER BY used_at DESC NULLS LAST))[1], '') AS last_used_from
    FROM tokens WHERE grant_id = grants.id
) AS held
"""
"""What `_grant` reads."""

_ONE: LiteralString = f"{_GRANTS} WHERE grants.id = %s"

# Of a million grants, what can be known without their tokens is known first, and users of a name are looked for once:
# among all of them only for administrators.
_PAGE: LiteralString = f"""
{_GRANTS}
WHERE (%(issuer)s = '' OR issuer = %(issuer)s) AND (%(subject)s = '' OR subject = %(subject)s)
    AND (%(text)s = '' OR strpos(lower(grants.name), lower(%(text)s)) > 0 OR subject = %(text)s
        OR grants.id::text = lower(%(text)s) OR (issuer, subject) IN (
            SELECT issuer, subject FROM owners WHERE (%(issuer)s = '' OR issuer = %(issuer)s)
                AND (%(subject)s = '' OR subject = %(subject)s) AND strpos(lower(username), lower(%(text)s)) > 0))
    AND (%(state)s <> 'revoked' OR revoked_at IS NOT NULL) AND (%(state)s IN ('', 'revoked') OR revoked_at IS NULL)
    AND (%(state)s = '' OR %(state)s = CASE WHEN revoked_at IS NOT NULL THEN 'revoked'
        WHEN held.expires_at <= %(now)s THEN 'expired' ELSE 'active' END)
    AND (%(at)s::timestamptz IS NULL OR (grants.created_at, grants.id) < (%(at)s, %(id)s::uuid))
ORDER BY grants.created_at DESC, grants.id DESC LIMIT %(limit)s
"""  # noqa: S608 - constants

_LIVE: LiteralString = """
SELECT count(*) FROM grants WHERE issuer = %s AND subject = %s AND revoked_at IS NULL
    AND EXISTS (SELECT FROM tokens WHERE grant_id = grants.id AND least(ends_at, expires_at) > %s)
"""

_ENDED: LiteralString = """
SELECT count(*) FROM grants JOIN tokens ON grant_id = grants.id
WHERE issuer = %s AND subject = %s AND ends_at IS NOT NULL AND expires_at > %s
"""

_ISSUED: LiteralString = """
SELECT issued_at FROM grants JOIN tokens ON grant_id = grants.id
WHERE issuer = %s AND subject = %s AND issued_at > %s AND (revoked_at IS NULL OR revoked_at > %s)
ORDER BY issued_at DESC OFFSET %s LIMIT 1
"""

_EXPIRE: LiteralString = """
UPDATE grants SET revoked_at = %(now)s, revoked_by = %(by)s, version = version + 1
WHERE issuer = %(issuer)s AND subject = %(subject)s AND name = %(name)s AND revoked_at IS NULL
    AND NOT EXISTS (SELECT FROM tokens WHERE grant_id = grants.id AND least(ends_at, expires_at) > %(now)s)
RETURNING id
"""

_ADD: LiteralString = """
INSERT INTO grants (id, issuer, subject, name, scopes, models, roles, lifetime, created_at, created_by)
VALUES (%(id)s, %(issuer)s, %(subject)s, %(name)s, %(scopes)s, %(models)s, %(roles)s, %(lifetime)s, %(created_at)s,
    %(created_by)s)
ON CONFLICT DO NOTHING
"""
_CHANGE: LiteralString = """
UPDATE grants SET version = version + 1, lifetime = %(lifetime)s, revoked_at = %(revoked_at)s,
    revoked_by = %(revoked_by)s, reminded_at = NULL
WHERE id = %(id)s
"""

_TOKENS: LiteralString = """
SELECT jti, issued_at, expires_at, ends_at, issued_by FROM tokens WHERE grant_id = %s
ORDER BY issued_at DESC, jti LIMIT 100
"""
_ADD_ONE: LiteralString = """
INSERT INTO tokens (jti, grant_id, kid, issued_at, expires_at, issued_by, issued_from)
VALUES (%s, %s, %s, %s, %s, %s, %s)
"""


async def entitled(connection: Connection, issuer: str, subject: str, *, locked: bool = False) -> Entitled | None:
    """`locked`: until the end of the transaction nobody else changes what this owner has."""
    if not (is_text(issuer) and is_text(subject)):  # Postgres could not even look for some of what callers name
        return None
    row = await _first(connection, f"{_OWNER} FOR UPDATE" if locked else _OWNER, (issuer, subject))
    if row is None:
        return None
    known = of_owners.decode_standing(row.pop("row"))
    held, owner = known.of_tokens(), Owner(**row, username=known.username, enabled=known.enabled)
    return Entitled(owner=owner, roles=held.roles, groups=held.groups, scopes=known.scopes)


async def known(connection: Connection, issuer: str, subject: str) -> of_owners.Standing | None:
    """The same owner, as a check of their API tokens knows them."""
    row = await _first(connection, _OWNER, (issuer, subject))
    return None if row is None else of_owners.decode_standing(row["row"])


async def service_accounts(connection: Connection, issuer: str, groups: Sequence[str] | None) -> tuple[Owner, ...]:
    """Of these groups of the issuer; None: all of every issuer."""
    wanted = {"issuer": issuer, "groups": None if groups is None else list(groups)}
    return tuple(Owner(**row) for row in await _all(connection, _ACCOUNTS, wanted))


async def grant(connection: Connection, wanted: UUID, now: datetime, *, locked: bool = False) -> Grant | None:
    """With its tokens."""
    if locked:
        await connection.execute("SELECT FROM grants WHERE id = %s FOR UPDATE", (wanted,))
    row = await _first(connection, _ONE, (wanted,))
    if row is None:
        return None
    found, tokens = _grant(row, now), await _all(connection, _TOKENS, (wanted,))
    return replace(found, tokens=tuple(_token(token, found) for token in tokens))


async def grants(connection: Connection, wanted: Mapping[str, Any], now: datetime) -> list[Grant]:
    """`wanted`: issuer, subject, text, state (each empty for any), at and id (of the last one on the page before, or
    None), limit."""
    return [_grant(row, now) for row in await _all(connection, _PAGE, {**wanted, "now": now})]


async def live(connection: Connection, owner: Owner, now: datetime) -> int:
    """How many grants of the owner have a token that has not ended."""
    row = await (await connection.execute(_LIVE, (owner.issuer, owner.subject, now))).fetchone()
    return int(row[0]) if row else 0


async def ended(connection: Connection, owner: Owner, now: datetime) -> int:
    """How many tokens of the owner end before they expire, and have not expired: workers keep these in memory."""
    row = await (await connection.execute(_ENDED, (owner.issuer, owner.subject, now))).fetchone()
    return int(row[0]) if row else 0


async def issued(connection: Connection, owner: Owner, since: datetime, number: int) -> datetime | None:
    """When the `number`th token of the owner before now was issued; None: they were fewer since then."""
    values = (owner.issuer, owner.subject, since, since, number - 1)
    row = await (await connection.execute(_ISSUED, values)).fetchone()
    return row[0] if row else None


async def expire(connection: Connection, new: Grant) -> list[UUID]:
    """Those of the owner that have expired, and whose name the new one takes: they can be renewed no more."""
    values = {"issuer": new.owner.issuer, "subject": new.owner.subject, "name": new.name, "now": new.created_at}
    return [row["id"] for row in await _all(connection, _EXPIRE, {**values, "by": new.created_by})]


async def add(connection: Connection, new: Grant) -> bool:
    """False: the owner has one of that name."""
    fields = {name: getattr(new, name) for name in ("id", "name", "lifetime", "created_at", "created_by")}
    lists = {name: value and list(value) for name, value in (("models", new.models), ("roles", new.roles))}
    whose = {"issuer": new.owner.issuer, "subject": new.owner.subject}
    row = {**fields, **whose, "scopes": list(new.scopes), **lists}
    return (await connection.execute(_ADD, row)).rowcount == 1


async def add_token(connection: Connection, grant_id: UUID, kid: str, token: Token, address: str) -> None:
    row = (token.jti, grant_id, kid, token.issued_at, token.expires_at, token.issued_by, address)
    await connection.execute(_ADD_ONE, row)


async def change(connection: Connection, changed: Grant) -> None:
    """Of what can change: the lifetime, and that it is revoked. The version grows."""
    names = ("id", "lifetime", "revoked_at", "revoked_by")
    await connection.execute(_CHANGE, {name: getattr(changed, name) for name in names})


async def end_tokens(connection: Connection, jtis: Sequence[str], ends_at: datetime) -> None:
    """What ends earlier stays so."""
    await connection.execute(
        "UPDATE tokens SET ends_at = least(ends_at, %s) WHERE jti = ANY(%s)", (ends_at, list(jtis))
    )


def _grant(row: dict[str, Any], now: datetime) -> Grant:
    owner = Owner(**{name: row.pop(name) for name in Owner.__struct_fields__})
    lists = {name: None if row[name] is None else tuple(row[name]) for name in ("scopes", "models", "roles")}
    state = State.ACTIVE if row["expires_at"] > now else State.EXPIRED
    if row["revoked_at"] is not None:
        state = State.REVOKED
    return Grant(**{**row, **lists}, owner=owner, state=state)


def _token(row: dict[str, Any], grant: Grant) -> Token:
    """A revoked grant ends all its tokens."""
    ends = [at for at in (row["ends_at"], grant.revoked_at) if at is not None]
    return Token(**{**row, "ends_at": min(ends, default=None)})


async def _all(connection: Connection, query: LiteralString, values: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - psycopg's
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(query, values)
        return await cursor.fetchall()


async def _first(connection: Connection, query: LiteralString, values: Any) -> dict[str, Any] | None:  # noqa: ANN401
    rows = await _all(connection, query, values)
    return rows[0] if rows else None
