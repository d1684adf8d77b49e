"""The realm's keys: one active signing key, passive ones that still verify, one for encryption, one HMAC secret.

As in Keycloak: access and ID tokens are RS256 and verify with the published set; refresh tokens and the login
cookie are HS512 with a secret of its own.
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

Claims = dict[str, Any]

SIGN, ENCRYPT, INTERNAL = "RS256", "RSA-OAEP", "HS512"
_USE = {SIGN: "sig", ENCRYPT: "enc", INTERNAL: "sig"}
_RSA_BITS, _HMAC_BITS = 2048, 512


class KeyRing:
    """Signs, verifies, publishes and rotates. A new key is on disk before it signs."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._db = database
        rows = database.execute("SELECT jwk FROM key_ring ORDER BY serial DESC")
        self._keys = [_imported(msgspec.json.decode(jwk)) for (jwk,) in rows]
        """Newest first: the first one of an algorithm signs, the others only verify."""
        for alg in _USE:
            if not any(key.alg == alg for key in self._keys):
                self._add(alg)

    def published(self) -> dict[str, object]:
        """The JWKS: every RSA key, the encryption key among them."""
        return {"keys": [key.as_dict(private=False) for key in self._keys if key.alg != INTERNAL]}

    def sign(self, claims: Mapping[str, object], alg: str = SIGN, typ: str = "JWT") -> str:
        key = next(key for key in self._keys if key.alg == alg)
        return jwt.encode({"alg": alg, "typ": typ, "kid": key.kid}, dict(claims), key, [alg])

    def verify(self, token: str, alg: str = SIGN) -> Claims | None:
        """The claims of a token with our signature; expiry is checked by the caller."""
        try:
            return dict(jwt.decode(token, self.verifiers(alg), [alg]).claims)
        except (JoseError, ValueError):
            return None

    def verifiers(self, alg: str = SIGN) -> KeySet:
        return KeySet([key for key in self._keys if key.alg == alg])

    def rotate(self) -> str:
        """A new key signs from now on, the old one still verifies. The new one's `kid`."""
        return str(self._add(SIGN).kid)

    def _add(self, alg: str) -> RSAKey | OctKey:
        key = _generated(alg)
        self._db.execute("INSERT INTO key_ring (jwk) VALUES (?)", (msgspec.json.encode(key.as_dict(private=True)),))
        self._keys.insert(0, key)
        return key


def _generated(alg: str) -> RSAKey | OctKey:
    parameters: KeyParameters = {"alg": alg, "use": _USE[alg]}
    if alg == INTERNAL:
        # Not the thumbprint: it would publish a hash of the secret in every header.
        return OctKey.generate_key(_HMAC_BITS, parameters={**parameters, "kid": str(uuid.uuid4())})
    return RSAKey.generate_key(_RSA_BITS, parameters=parameters, auto_kid=True)


def _imported(jwk: dict[str, Any]) -> RSAKey | OctKey:
    return OctKey.import_key(jwk) if jwk["kty"] == "oct" else RSAKey.import_key(jwk)
