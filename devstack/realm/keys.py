"""The realm's keys: one active signing key, passive ones that still verify, one for encryption, one HMAC secret.

As in Keycloak: access and ID tokens are RS256 and verify with the published set; refresh tokens and the login
cookie are HS512 with a secret that nobody else has.
"""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Mapping
from typing import Any

import msgspec
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeyParameters, KeySet, OctKey, RSAKey
from msgspec import Struct

Claims = dict[str, Any]

SIGN, ENCRYPT, INTERNAL = "RS256", "RSA-OAEP", "HS512"
_USE = {SIGN: "sig", ENCRYPT: "enc", INTERNAL: "sig"}
_RSA_BITS, _HMAC_BITS = 2048, 512


class Key(Struct, frozen=True):
    """One key: active ones sign, passive ones only verify."""

    kid: str
    alg: str
    active: bool
    material: RSAKey | OctKey

    @property
    def use(self) -> str:
        return _USE[self.alg]


class KeyInUse(Exception):
    """The active key cannot be disabled: rotate first."""


class KeyRing:
    """Signs, verifies, publishes and rotates. A new key is on disk before it signs."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._db = database
        self._keys = self._stored()
        for alg in _USE:
            if not any(key.alg == alg for key in self._keys):
                self._make_active(alg)

    def published(self) -> dict[str, object]:
        """The JWKS: every RSA key that is not disabled, the encryption key among them."""
        return {"keys": [key.material.as_dict(private=False) for key in self._keys if key.alg != INTERNAL]}

    def all(self) -> tuple[Key, ...]:
        """Newest first."""
        return tuple(self._keys)

    def active(self, alg: str) -> Key:
        return next(key for key in self._keys if key.alg == alg and key.active)

    def sign(self, claims: Mapping[str, object], alg: str = SIGN) -> str:
        key = self.active(alg)
        return jwt.encode({"alg": alg, "kid": key.kid}, dict(claims), key.material, [alg])

    def verify(self, token: str, alg: str = SIGN) -> Claims | None:
        """The claims of a token with our signature by a key that is not disabled; expiry is checked by the caller."""
        try:
            return dict(jwt.decode(token, self.verifiers(alg), [alg]).claims)
        except (JoseError, ValueError):
            return None

    def verifiers(self, alg: str = SIGN) -> KeySet:
        return KeySet([key.material for key in self._keys if key.alg == alg])

    def rotate(self) -> Key:
        """A new key signs from now on; tokens of the old one stay good until it is disabled."""
        return self._make_active(SIGN)

    def disable(self, kid: str) -> bool:
        """Delete a passive key, and so void its tokens. False when there is no such key.

        Raises:
            KeyInUse: it is the active one.
        """
        key = next((key for key in self._keys if key.kid == kid), None)
        if key is None:
            return False
        if key.active:
            raise KeyInUse
        self._db.execute("DELETE FROM keys WHERE kid = ?", (kid,))
        self._keys.remove(key)
        return True

    def _make_active(self, alg: str) -> Key:
        """Older keys of the same algorithm become passive."""
        material = _generated(alg)
        jwk = msgspec.json.encode(material.as_dict(private=True)).decode()
        with self._db:
            self._db.execute("BEGIN")
            self._db.execute("UPDATE keys SET active = 0 WHERE alg = ?", (alg,))
            self._db.execute("INSERT INTO keys (kid, alg, active, jwk) VALUES (?, ?, 1, ?)", (material.kid, alg, jwk))
        self._keys = self._stored()
        return self.active(alg)

    def _stored(self) -> list[Key]:
        rows = self._db.execute("SELECT kid, alg, active, jwk FROM keys ORDER BY serial DESC")
        return [Key(kid, alg, bool(active), _material(alg, jwk)) for kid, alg, active, jwk in rows]


def _generated(alg: str) -> RSAKey | OctKey:
    parameters: KeyParameters = {"alg": alg, "use": _USE[alg]}
    if alg == INTERNAL:
        # Not the thumbprint: it would publish a hash of the secret in every header.
        return OctKey.generate_key(_HMAC_BITS, parameters={**parameters, "kid": str(uuid.uuid4())})
    return RSAKey.generate_key(_RSA_BITS, parameters=parameters, auto_kid=True)


def _material(alg: str, jwk: str) -> RSAKey | OctKey:
    parameters = msgspec.json.decode(jwk)
    return OctKey.import_key(parameters) if alg == INTERNAL else RSAKey.import_key(parameters)
