"""The keys that sign our tokens.

One key signs at a time. A new one is published for `OVERLAP` before it signs, so that every verifier has it; a retired
one stays published until the last of its tokens has ended; a withdrawn one is gone with the next answer.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, LiteralString

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)
from jwt.algorithms import ECAlgorithm
from jwt.types import Options
from jwt.utils import der_to_raw_signature
from msgspec import Struct

from ext_authz.clock import Clock
from ext_authz.db.postgres import Connection, Pool
from ext_authz.errors import ConfigError, Unavailable
from ext_authz.tokens.cipher import Cipher as Cipher
from ext_authz.tokens.model import NotDone, Why

OVERLAP = timedelta(minutes=10)
"""Longer than anybody keeps a key set: Envoy 5 minutes unless told otherwise, authorizers one."""
FRESH = 1.0
"""Seconds for which what was read from Postgres is used."""
SOON = 0.5
"""Seconds: who fetches keys waits no longer than a second."""
_LOCK = 7_263_517_093
"""Of who makes keys, until the end of the transaction."""
_SIGNATURE_ONLY: Options = {"verify_exp": False, "verify_aud": False, "verify_iat": False, "verify_nbf": False}


class Key(Struct, frozen=True):
    """One signing key, without its private half."""

    kid: str
    """RFC 7638 thumbprint."""
    created_at: datetime
    signs_from: datetime
    retired_at: datetime | None
    withdrawn_at: datetime | None
    live: bool
    """Some of its tokens may be in use."""
    public: Mapping[str, Any]
    """The JWK."""
    private: bytes
    """Encrypted."""

    @property
    def published(self) -> bool:
        return self.withdrawn_at is None and (self.retired_at is None or self.live)

    def signs(self, at: datetime) -> bool:
        return self.withdrawn_at is None and self.signs_from <= at and (self.retired_at is None or at < self.retired_at)


_KEYS: LiteralString = """
SELECT kid, created_at, signs_from, retired_at, withdrawn_at, retired_at > %(now)s - interval '1 hour' OR EXISTS (
    SELECT FROM tokens WHERE tokens.kid = signing_keys.kid AND expires_at > %(now)s - interval '1 hour'
), public_key, private_key
FROM signing_keys ORDER BY signs_from DESC, kid
"""
_ADD: LiteralString = """
INSERT INTO signing_keys (kid, algorithm, public_key, private_key, created_at, signs_from)
VALUES (%s, 'ES256', %s, %s, %s, %s)
"""

_LOCK_OWNERS: LiteralString = """
SELECT FROM owners WHERE (issuer, subject) IN (
    SELECT issuer, subject FROM grants JOIN tokens ON grant_id = grants.id WHERE kid = %(kid)s AND expires_at > %(now)s
) ORDER BY issuer, subject FOR UPDATE
"""
"""As everywhere: owners before tokens."""
_END: LiteralString = """
UPDATE tokens SET ends_at = %(now)s WHERE kid = %(kid)s AND least(ends_at, expires_at) > %(now)s
"""


class SigningKeys:
    """ES256 (RFC 7518 section 3.4), the same in every replica. Raises Unavailable("postgres")."""

    def __init__(self, pool: Pool, cipher: Cipher, clock: Clock) -> None:
        self._pool = pool
        self.cipher = cipher
        self._clock = clock
        self._known: tuple[Key, ...] = ()
        self._read_at = float("-inf")
        self._reading: asyncio.Task[Unavailable | None] | None = None

    async def jwks(self) -> dict[str, list[dict[str, Any]]]:
        """What is published (RFC 7517 section 5). While Postgres does not answer: what it was when it last did."""
        return {"keys": [dict(key.public) for key in await self._keys(stale=True) if key.published]}

    async def signing(self) -> str:
        """The `kid` of the key that signs now; the first one ever is made here."""
        for _ in range(2):
            keys, now = await self._keys(), self._now()
            if key := next((key for key in keys if key.signs(now)), None):
                self._private(key)  # a key that cannot be decrypted shows before anything is written
                return key.kid
            await self._pool.run(self._make_first)
            self._read_at = float("-inf")
        raise Unavailable("postgres", "there is no signing key, and none could be made", answers=True)

    async def sign(self, claims: Mapping[str, Any], kid: str) -> str:
        """The same JWS for the same claims (RFC 6979), so that a repeated request gets the same token.

        Raises:
            NotDone: CONFLICT, the key was withdrawn.
        """
        key = next((key for key in await self._keys(stale=True) if key.kid == kid), None)
        if key is None or key.withdrawn_at is not None:
            raise NotDone(Why.CONFLICT, "the key that signed this token was withdrawn: ask for a new token")
        private = self._private(key)
        signed = f"{_part({'alg': 'ES256', 'kid': kid, 'typ': 'at+jwt'})}.{_part(claims)}"
        signature = private.sign(signed.encode(), ec.ECDSA(SHA256(), deterministic_signing=True))
        return f"{signed}.{_encoded(der_to_raw_signature(signature, private.curve))}"

    async def verify(self, jws: str) -> dict[str, Any]:
        """The claims of a token that one of the published keys signed; whether it has ended is not looked at.

        Raises:
            ValueError: it is none; the message does not repeat it.
        """
        try:
            header = jwt.get_unverified_header(jws)
            keys = {key.kid: key for key in await self._keys(stale=True) if key.published}
            public = jwt.PyJWK(dict(keys[str(header.get("kid"))].public))
            claims: dict[str, Any] = jwt.decode(jws, public, algorithms=["ES256"], options=_SIGNATURE_ONLY)
        except (jwt.InvalidTokenError, KeyError, RecursionError):
            raise ValueError("this token was not signed here") from None
        return claims

    async def all(self) -> tuple[Key, ...]:
        """The latest first, as Postgres has them now."""
        self._read_at = float("-inf")
        return await self._keys()

    async def rotate(self, connection: Connection, *, at_once: bool = False) -> str:
        """The `kid` of a new key that signs after `OVERLAP`, or at once; the one before retires then. In the
        transaction of the caller, who writes the audit log."""
        now = self._now()
        await connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
        starts = now if at_once else now + OVERLAP
        await connection.execute(
            "UPDATE signing_keys SET retired_at = %(starts)s WHERE retired_at IS NULL OR retired_at > %(starts)s",
            {"starts": starts},
        )
        self._read_at = float("-inf")
        return await self._add(connection, now, starts)

    async def withdraw(self, connection: Connection, kid: str) -> bool:
        """Its tokens are dead when verifiers next fetch the key set; False: there is no such key, or it is withdrawn.

        In the transaction of the caller. Where it was the one that signs, or is to, a new one signs at once.
        """
        now = self._now()
        await connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
        withdrawn = await connection.execute(
            "UPDATE signing_keys SET withdrawn_at = %s WHERE kid = %s AND withdrawn_at IS NULL RETURNING "
            "retired_at IS NULL OR retired_at > %s",
            (now, kid, now),
        )
        row = await withdrawn.fetchone()
        if row is None:
            return False
        await connection.execute(_LOCK_OWNERS, {"now": now, "kid": kid})
        await connection.execute(_END, {"now": now.replace(microsecond=0), "kid": kid})
        self._read_at = float("-inf")
        if row[0]:
            await self.rotate(connection, at_once=True)
        return True

    async def reencrypt(self, connection: Connection) -> int:
        """How many were not encrypted with the first key of the settings, and are now. In the caller's transaction."""
        await connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
        rows = await (await connection.execute("SELECT kid, private_key FROM signing_keys")).fetchall()
        old = [(kid, sealed) for kid, sealed in rows if not self.cipher.is_current(sealed)]
        for kid, sealed in old:
            context = _context(kid)
            again = self.cipher.encrypt(self.cipher.decrypt(sealed, context), context)
            await connection.execute("UPDATE signing_keys SET private_key = %s WHERE kid = %s", (again, kid))
        return len(old)

    async def _keys(self, *, stale: bool = False) -> tuple[Key, ...]:
        """`stale`: what is known will do where Postgres does not answer soon."""
        if self._clock.monotonic() - self._read_at >= FRESH:
            if self._reading is None or self._reading.done():
                self._reading = asyncio.create_task(self._read(), name="signing keys")
            await asyncio.wait({self._reading}, timeout=SOON if stale and self._known else None)
            failure = self._reading.result() if self._reading.done() else None
            if failure and not (stale and self._known):
                raise failure
        return self._known

    async def _read(self) -> Unavailable | None:
        """Why not, where they could not be read."""

        async def read(connection: Connection) -> list[tuple[Any, ...]]:
            return await (await connection.execute(_KEYS, {"now": self._now()})).fetchall()

        try:
            rows = await self._pool.run(read)
        except Unavailable as failure:
            return failure
        self._known, self._read_at = tuple(Key(*row) for row in rows), self._clock.monotonic()
        return None

    def _private(self, key: Key) -> ec.EllipticCurvePrivateKey:
        """Raises ConfigError: no key of the settings decrypts it."""
        private = load_der_private_key(self.cipher.decrypt(key.private, _context(key.kid)), None)
        if not isinstance(private, ec.EllipticCurvePrivateKey):
            raise ConfigError(f"{_context(key.kid)}: is no EC key: withdraw it")
        return private

    async def _make_first(self, connection: Connection) -> None:
        """Several replicas may start at once: the second finds the key of the first."""
        now = self._now()
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
            found = await connection.execute(
                "SELECT FROM signing_keys WHERE withdrawn_at IS NULL AND signs_from <= %(now)s "
                "AND (retired_at IS NULL OR retired_at > %(now)s)",
                {"now": now},
            )
            if await found.fetchone() is None:
                await self._add(connection, now, now)

    async def _add(self, connection: Connection, now: datetime, signs_from: datetime) -> str:
        private = ec.generate_private_key(ec.SECP256R1())
        jwk = {name: ECAlgorithm.to_jwk(private.public_key(), as_dict=True)[name] for name in ("crv", "kty", "x", "y")}
        kid = _encoded(hashlib.sha256(json.dumps(jwk, separators=(",", ":")).encode()).digest())  # RFC 7638 section 3
        public = {**jwk, "alg": "ES256", "kid": kid, "use": "sig"}
        plain = private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        sealed = self.cipher.encrypt(plain, _context(kid))
        await connection.execute(_ADD, (kid, json.dumps(public), sealed, now, signs_from))
        return kid

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock.now(), UTC)


def _context(kid: str) -> str:
    return f"signing key {kid}"


def _part(content: Mapping[str, Any]) -> str:
    return _encoded(json.dumps(content, separators=(",", ":"), ensure_ascii=False, sort_keys=True).encode())


def _encoded(content: bytes) -> str:
    return urlsafe_b64encode(content).rstrip(b"=").decode("ascii")
