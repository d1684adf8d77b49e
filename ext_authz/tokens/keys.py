"""The keys that sign our tokens.

One key signs at a time. A new one is published for `OVERLAP` before it signs, so that every verifier has it; a retired
one stays published until the last of its tokens has ended; a withdrawn one is gone with the next answer.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from base64 import urlsafe_b64encode
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, TypeVar

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)
from jwt.algorithms import ECAlgorithm
from jwt.utils import der_to_raw_signature

from ext_authz.clock import Clock
from ext_authz.db.postgres import Connection, Pool
from ext_authz.errors import ConfigError, Unavailable
from ext_authz.tokens import audit
from ext_authz.tokens.cipher import Cipher
from ext_authz.tokens.model import Actor, NotDone, Why
from ext_authz.tokens.signing_key import ADD, END, KEYS, LIVE, LOCK_OWNERS, RETIRE, WITHDRAW, Key

T = TypeVar("T")

OVERLAP = timedelta(minutes=10)
"""Longer than anybody keeps a key set: Envoy 5 minutes unless told otherwise, authorizers one."""
FRESH = 1.0
"""Seconds for which what was read from Postgres is used."""
SOON = 0.5
"""Seconds: who fetches keys waits no longer than a second."""
LONGEST_STALE = 300.0
"""Seconds for which keys are published that Postgres did not confirm since. Longer than its restart or fail-over takes;
afterwards whoever fetches them is told, and decides (`jwks_max_stale`): one of them may have been withdrawn."""
_LOCK = 7_263_517_093
"""Of who makes keys, until the end of the transaction."""


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
        """What is published (RFC 7517 section 5). While Postgres does not answer: for `LONGEST_STALE` what it was when
        it last did; then Unavailable."""
        keys = await self._keys(stale=self._clock.monotonic() - self._read_at < LONGEST_STALE)
        return {"keys": [dict(key.public) for key in keys if key.published]}

    async def signing(self) -> str:
        """The `kid` of the key that signs now; the first one ever is made here."""
        for _ in range(2):
            keys, now = await self._keys(), self._now()
            if key := next((key for key in keys if key.signs(now)), None):
                self._private(key)  # a key that cannot be decrypted shows before anything is written
                return key.kid
            await self._locked(self._make_first)
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

    async def all(self) -> tuple[Key, ...]:
        """The latest first, as Postgres has them now."""
        self._read_at = float("-inf")
        return await self._keys()

    async def rotate(self, actor: Actor, *, at_once: bool = False) -> str:
        """The `kid` of a new key that signs after `OVERLAP`, or at once; the one before retires then."""

        async def work(connection: Connection) -> str:
            kid = await self._rotate(connection, at_once=at_once)
            await audit.record(connection, actor, "key.rotated", f"key:{kid}", {"at_once": at_once})
            return kid

        return await self._change(actor, work)

    async def withdraw(self, actor: Actor, kid: str) -> None:
        """Its tokens are dead when verifiers next fetch the key set. Where it was the one that signs, a new one does.

        First the key, then its tokens: however many there are, it is not published any more. To repeat it after
        Unavailable is safe.

        Raises:
            NotDone: NOT_FOUND, no such key, or it is withdrawn.
        """

        async def work(connection: Connection) -> bool:
            row = await (await connection.execute(WITHDRAW, {"now": self._now(), "kid": kid})).fetchone()
            if row is not None:
                successor = await self._rotate(connection, at_once=True) if row[0] else ""
                await audit.record(connection, actor, "key.withdrawn", f"key:{kid}", {"successor": successor})
            return row is not None

        withdrawn, ended = await self._change(actor, work), 0
        while some := await self._pool.transaction(partial(self._end_some, kid=kid)):
            ended += some
        if not (withdrawn or ended):
            raise NotDone(Why.NOT_FOUND, "no key has this id, or it was withdrawn before", "kid")

    async def _end_some(self, connection: Connection, kid: str) -> int:
        """Of the tokens of a key that is withdrawn; 0: none is left."""
        values: dict[str, Any] = {"now": self._now().replace(microsecond=0), "kid": kid}
        values["jtis"] = [jti for (jti,) in await (await connection.execute(LIVE, values)).fetchall()]
        await connection.execute(LOCK_OWNERS, values)
        return (await connection.execute(END, values)).rowcount

    async def reencrypt(self, actor: Actor) -> int:
        """How many were not encrypted with the first key of the settings, and are now."""

        async def work(connection: Connection) -> int:
            rows = await (await connection.execute("SELECT kid, private_key FROM signing_keys")).fetchall()
            old = [(kid, sealed) for kid, sealed in rows if not self.cipher.is_current(sealed)]
            for kid, sealed in old:
                again = self.cipher.encrypt(self.cipher.decrypt(sealed, _context(kid)), _context(kid))
                await connection.execute("UPDATE signing_keys SET private_key = %s WHERE kid = %s", (again, kid))
            if old:
                await audit.record(connection, actor, "key.reencrypted", "keys", {"keys": [kid for kid, _ in old]})
            return len(old)

        return await self._change(actor, work)

    async def _change(self, actor: Actor, work: Callable[[Connection], Awaitable[T]]) -> T:
        """One at a time, by administrators."""
        if not actor.administrator:
            raise NotDone(Why.FORBIDDEN, "only administrators change the keys")
        return await self._locked(work)

    async def _locked(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """In one transaction; whoever else changes keys waits for its end."""

        async def locked(connection: Connection) -> T:
            await connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
            return await work(connection)

        changed = await self._pool.transaction(locked)
        self._read_at = float("-inf")
        return changed

    async def _rotate(self, connection: Connection, *, at_once: bool) -> str:
        """A key that was to sign later and is overtaken never signs."""
        now = self._now()
        starts = now if at_once else now + OVERLAP
        await connection.execute(RETIRE, {"starts": starts})
        return await self._add(connection, now, starts)

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
            return await (await connection.execute(KEYS, {"now": self._now()})).fetchall()

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
        await connection.execute(ADD, (kid, json.dumps(public), sealed, now, signs_from))
        return kid

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock.now(), UTC)


def _context(kid: str) -> str:
    return f"signing key {kid}"


def _part(content: Mapping[str, Any]) -> str:
    return _encoded(json.dumps(content, separators=(",", ":"), ensure_ascii=False, sort_keys=True).encode())


def _encoded(content: bytes) -> str:
    return urlsafe_b64encode(content).rstrip(b"=").decode("ascii")
