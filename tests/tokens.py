"""Tokens for tests: the shape of a Keycloak 26 access token by default, and whatever an attacker would send.

mint()                                   a good token
mint({"exp": ABSENT, "aud": "other"})    other claims, or fewer
mint(key=EC256, headers={"typ": "x"})    other key, other header
sign(b"...", b"...", key)                any bytes at all, signed all the same
"""

from __future__ import annotations

import json
import time
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from jwt.algorithms import get_default_algorithms

ISSUER = "https://kc.example/realms/ml"
AUDIENCE = "triton-gateway"
ALICE = "5f1c2f0e-8d7c-4c9a-9d55-0a6f4f1e7b11"

ABSENT: Any = object()
"""As the value of a claim or header: leave it out."""

_ALGORITHMS = get_default_algorithms()
_KEYS = Path(__file__).parent / "keys"


class TestKey:
    """A private key from tests/keys, the algorithm it is published for, and its `kid`."""

    __test__ = False  # for pytest, which would collect it by its name

    def __init__(self, file: str, algorithm: str, *, key_id: str = "") -> None:
        self.file = file
        self.algorithm = algorithm
        self.key_id = key_id or f"kid-{file}-{algorithm}"

    def __repr__(self) -> str:
        return self.key_id

    @property
    def name(self) -> tuple[str, str]:
        """As a key set keeps it."""
        return self.key_id, self.algorithm

    @cached_property
    def private(self) -> PrivateKeyTypes:
        return load_pem_private_key((_KEYS / f"{self.file}.pem").read_bytes(), password=None)

    def jwk(self, **changes: object) -> dict[str, object]:
        """The public half as Keycloak publishes it."""
        public = _ALGORITHMS[self.algorithm].to_jwk(self.private.public_key(), as_dict=True)
        public.pop("key_ops", None)
        return without_absent({**public, "kid": self.key_id, "alg": self.algorithm, "use": "sig", **changes})

    def pem(self) -> bytes:
        """The public half as a key repository has it."""
        return self.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def signature(self, message: bytes, algorithm: str = "") -> bytes:
        return _ALGORITHMS[algorithm or self.algorithm].sign(message, self.private)


RSA = TestKey("rsa", "RS256")
RSA_NEXT = TestKey("rsa-next", "RS256")
"""What the issuer rotates to."""
RSA_WEAK = TestKey("rsa-1024", "RS256")
PSS = TestKey("rsa", "PS256")
EC256 = TestKey("ec-p256", "ES256")
EC384 = TestKey("ec-p384", "ES384")
EC521 = TestKey("ec-p521", "ES512")
ED25519 = TestKey("ed25519", "EdDSA")
ED448 = TestKey("ed448", "EdDSA")


def keycloak_claims(now: float | None = None) -> dict[str, object]:
    """An access token of a user in the role `infer`, five minutes long."""
    issued_at = int(time.time() if now is None else now)
    return {
        "exp": issued_at + 300,
        "iat": issued_at,
        "auth_time": issued_at - 5,
        "jti": "onrtac:1f65761e-1c69-40a2-82da-2d8aa5e39a8a",
        "iss": ISSUER,
        "aud": [AUDIENCE, "account"],
        "sub": ALICE,
        "typ": "Bearer",
        "azp": "web-app",
        "sid": "f2b1e1a4-56b0-4f83-8d0b-6f5f0f0c9a11",
        "acr": "1",
        "allowed-origins": ["https://app.example"],
        "realm_access": {"roles": ["offline_access", "default-roles-ml"]},
        "resource_access": {AUDIENCE: {"roles": ["infer"]}, "account": {"roles": ["manage-account", "view-profile"]}},
        "scope": "openid profile email",
        "email_verified": True,
        "name": "Alice Example",
        "preferred_username": "alice",
        "email": "alice@example.com",
    }


def mint(
    overrides: Mapping[str, object] | None = None,
    *,
    key: TestKey = RSA,
    headers: Mapping[str, object] | None = None,
    now: float | None = None,
) -> str:
    """A signed token; `now` is the wall time at which it is issued."""
    header = without_absent({"alg": key.algorithm, "typ": "JWT", "kid": key.key_id, **(headers or {})})
    claims = without_absent({**keycloak_claims(now), **(overrides or {})})
    return sign(to_json(header), to_json(claims), key)


def sign(header: bytes, claims: bytes, key: TestKey = RSA) -> str:
    """A token of exactly these bytes, signed with the key's own algorithm whatever the header says."""
    signing_input = f"{b64(header)}.{b64(claims)}"
    return f"{signing_input}.{b64(key.signature(signing_input.encode()))}"


def jwks(*keys: TestKey | Mapping[str, object]) -> bytes:
    """A JWK Set document."""
    return to_json({"keys": [key.jwk() if isinstance(key, TestKey) else dict(key) for key in keys]})


def b64(raw: bytes) -> str:
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def to_json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def without_absent(values: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in values.items() if value is not ABSENT}
