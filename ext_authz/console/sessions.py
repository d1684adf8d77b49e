"""Who is signed in to the console: sessions in Postgres, found by the hash of what the cookie holds.

A session ends 30 minutes after its last request, 10 hours after the sign-in, at sign-out, and when the user, the
session at the identity provider, or the client is revoked: that is looked up for every request (`visitors.py`).
"""

from __future__ import annotations

import secrets
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, LiteralString

import msgspec
from msgspec import Struct, structs
from msgspec.structs import replace

from ext_authz.db.postgres import Connection, Pool
from ext_authz.decision import Principal
from ext_authz.errors import ConfigError
from ext_authz.identity.identity import Claim, Identity
from ext_authz.tokens.cipher import Cipher

_EARLY = 60
"""The tokens are refreshed so many seconds before the access token expires, or in the middle of a short life."""
_NEXT_TRY: LiteralString = "10 seconds"
_ALIVE: LiteralString = "expires_at > now() AND seen_at > now() - interval '30 minutes'"
_COOKIE = 43
"""Characters: 256 bits in base64url."""

_CREATE: LiteralString = """
WITH over AS (DELETE FROM console_sessions WHERE expires_at < now())
INSERT INTO console_sessions (id, issuer, subject, sid, secret, expires_at, refresh_at, address)
VALUES (%s, %s, %s, %s, %s, now() + interval '10 hours', %s, %s)
"""
_FIND: LiteralString = f"""
SELECT secret, refresh_at <= now(), seen_at < now() - interval '1 minute', flash,
    coalesce(enabled, true), current_roles, current_groups, coalesce(extract(epoch FROM checked_at), 0)::float8
FROM console_sessions LEFT JOIN owners USING (issuer, subject) WHERE id = %s AND {_ALIVE}
"""  # noqa: S608 - constants
_SEEN: LiteralString = "UPDATE console_sessions SET seen_at = now() WHERE id = %s"
_CLAIM_REFRESH: LiteralString = f"""
UPDATE console_sessions SET refresh_at = now() + interval '{_NEXT_TRY}' WHERE id = %s AND refresh_at <= now()
RETURNING true
"""  # noqa: S608 - constants
_REFRESHED: LiteralString = "UPDATE console_sessions SET secret = %s, refresh_at = %s WHERE id = %s"
_FLASH: LiteralString = "UPDATE console_sessions SET flash = %s WHERE id = %s"
_TAKE_FLASH: LiteralString = "UPDATE console_sessions SET flash = NULL WHERE id = %s AND flash = %s RETURNING true"
_END: LiteralString = "DELETE FROM console_sessions WHERE id = %s"


class _Kept(Struct, frozen=True):
    """Of an `Identity`, what is kept: the fields of a token of the identity provider."""

    principal: Principal
    issuer_name: str
    session: str
    issued_at: int
    expires_at: float
    audiences: tuple[str, ...]
    scopes: frozenset[str]
    roles: frozenset[str]
    groups: frozenset[str]
    claims: Mapping[str, Claim]
    username: str


class _Secret(Struct, frozen=True):
    """A `SignedIn`, as it is encrypted."""

    kept: _Kept
    id_token: str
    refresh_token: str


class SignedIn(Struct, frozen=True):
    """What is known of a sign-in."""

    identity: Identity
    """Of the latest access token."""
    id_token: str
    refresh_token: str

    def __repr__(self) -> str:
        return "SignedIn(***)"


class Flash(Struct, frozen=True):
    """What the page at `path` shows once, after something was done."""

    path: str
    notice: str = ""
    token: str = ""

    def __repr__(self) -> str:
        return "Flash(***)"


class Known(Struct, frozen=True):
    """What the identity provider said of the person at `checked_at`."""

    enabled: bool = True
    roles: frozenset[str] | None = None
    """None: it was not asked, or cannot be, as of the groups."""
    groups: frozenset[str] | None = None
    checked_at: float = 0

    def of(self, identity: Identity) -> Identity:
        """What is left of an identity: a token that was issued later is believed."""
        if identity.issued_at > self.checked_at:
            return identity
        roles = identity.roles if self.roles is None else identity.roles & self.roles
        groups = identity.groups if self.groups is None else identity.groups & self.groups
        return replace(identity, roles=roles, groups=groups)


class Session(Struct, frozen=True):
    """One that is alive."""

    id: bytes
    """The hash of what the cookie holds."""
    csrf: str
    """What every form of it brings back."""
    signed_in: SignedIn
    known: Known
    refresh_due: bool
    flash: bytes | None

    def __repr__(self) -> str:
        return "Session(***)"


class Sessions:
    """Raises Unavailable("postgres")."""

    def __init__(self, pool: Pool, cipher: Cipher) -> None:
        self._pool = pool
        self._cipher = cipher

    async def create(self, signed_in: SignedIn, address: str) -> str:
        """What the cookie holds: always a new id, so that none that was there before a sign-in is good after it."""
        cookie = secrets.token_urlsafe(32)
        hashed, who = _hash(cookie), signed_in.identity
        row = (hashed, who.issuer_name, who.principal.subject, who.session, self._sealed(signed_in, hashed))

        async def insert(connection: Connection) -> None:
            await connection.execute(_CREATE, (*row, _refresh_at(who), address))

        await self._pool.run(insert)
        return cookie

    async def find(self, cookie: str) -> Session | None:
        """The session, which this request keeps alive."""
        if len(cookie) != _COOKIE or not cookie.isascii():
            return None
        hashed = _hash(cookie)

        async def select(connection: Connection) -> tuple[Any, ...] | None:
            row = await (await connection.execute(_FIND, (hashed,))).fetchone()
            if row is not None and row[2]:
                await connection.execute(_SEEN, (hashed,))
            return row

        found = await self._pool.run(select)
        if found is None:
            return None
        sealed, due, _, flash, enabled, roles, groups, checked_at = found
        try:
            opened = self._cipher.decrypt(sealed, _context(hashed))
            secret = msgspec.json.decode(opened, type=_Secret)
        except (ConfigError, msgspec.DecodeError):  # its key was taken out of the settings, or another version wrote it
            return None
        signed_in = SignedIn(Identity(**structs.asdict(secret.kept)), secret.id_token, secret.refresh_token)
        known = Known(enabled, _names(roles), _names(groups), checked_at)
        return Session(hashed, _csrf(cookie), signed_in, known, due, flash)

    async def claim_refresh(self, session: Session) -> bool:
        """Whether this request is the one that uses the refresh token: of several at a time, one."""
        return await self._wrote(_CLAIM_REFRESH, (session.id,))

    async def refreshed(self, session: Session, signed_in: SignedIn) -> None:
        row = self._sealed(signed_in, session.id), _refresh_at(signed_in.identity), session.id

        async def update(connection: Connection) -> None:
            await connection.execute(_REFRESHED, row)

        await self._pool.run(update)

    async def end(self, cookie: str) -> None:
        async def delete(connection: Connection) -> None:
            await connection.execute(_END, (_hash(cookie),))

        await self._pool.run(delete)

    async def leave(self, session: Session, flash: Flash) -> None:
        """For the next page."""
        sealed = self._cipher.encrypt(msgspec.json.encode(flash), _context(session.id))

        async def update(connection: Connection) -> None:
            await connection.execute(_FLASH, (sealed, session.id))

        await self._pool.run(update)

    async def take(self, session: Session, path: str) -> Flash:
        """What was left for this page; nobody gets it a second time."""
        if session.flash is None:
            return Flash(path)
        try:
            opened = self._cipher.decrypt(session.flash, _context(session.id))
            flash = msgspec.json.decode(opened, type=Flash)
        except (ConfigError, msgspec.DecodeError):  # as in `find`: else no page of this session would be shown any more
            return Flash(path)
        if flash.path != path or not await self._wrote(_TAKE_FLASH, (session.id, session.flash)):
            return Flash(path)
        return flash

    async def _wrote(self, statement: LiteralString, values: tuple[object, ...]) -> bool:
        async def update(connection: Connection) -> bool:
            return await (await connection.execute(statement, values)).fetchone() is not None

        return await self._pool.run(update)

    def _sealed(self, signed_in: SignedIn, hashed: bytes) -> bytes:
        kept = _Kept(*(getattr(signed_in.identity, field) for field in _Kept.__struct_fields__))
        secret = _Secret(kept, signed_in.id_token, signed_in.refresh_token)
        return self._cipher.encrypt(msgspec.json.encode(secret), _context(hashed))


def _names(found: list[str] | None) -> frozenset[str] | None:
    return None if found is None else frozenset(found)


def _hash(cookie: str) -> bytes:
    return sha256(cookie.encode()).digest()


def _csrf(cookie: str) -> str:
    """Follows from the cookie, and leads back neither to it nor to its hash."""
    return urlsafe_b64encode(sha256(b"form of " + cookie.encode()).digest()).decode().rstrip("=")


def _context(hashed: bytes) -> str:
    """What is encrypted for one session decrypts in no other row."""
    return f"console session {hashed.hex()}"


def _refresh_at(identity: Identity) -> datetime:
    early = min(_EARLY, (identity.expires_at - identity.issued_at) / 2)
    return datetime.fromtimestamp(identity.expires_at - early, UTC)
