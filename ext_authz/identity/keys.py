"""From a JWK Set document (RFC 7517) to the keys that may verify a signature."""

from __future__ import annotations

import math
from typing import Any

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt import PyJWK
from jwt.algorithms import get_default_algorithms
from msgspec import Struct

from ext_authz.identity.jws import MAX_KEY_ID
from ext_authz.identity.strict_json import parse_object

MIN_RSA_BITS = 2048

_RSA = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
_FITTING: dict[tuple[object, object], frozenset[str]] = {
    ("RSA", None): _RSA,
    ("EC", "P-256"): frozenset({"ES256"}),
    ("EC", "P-384"): frozenset({"ES384"}),
    ("EC", "P-521"): frozenset({"ES512"}),
    ("OKP", "Ed25519"): frozenset({"EdDSA"}),
    ("OKP", "Ed448"): frozenset({"EdDSA"}),
}
"""Key type and curve to the algorithms that such a key can verify. Symmetric keys are not in it, nor ever will be."""

_ALGORITHMS = get_default_algorithms()


class SigningKey(Struct, eq=False):
    """One public key, for one algorithm (RFC 8725 section 3.1)."""

    key_id: str
    algorithm: str
    public: Any
    """Of cryptography; of the kind that `algorithm` takes."""
    trusted_until: float = -math.inf
    """Monotonic time. Moved on while the issuer publishes the key, and into the past when it no longer does."""

    def same(self, other: SigningKey | None) -> bool:
        """Whether both are the same key for the same use."""
        return other is not None and self.algorithm == other.algorithm and self.public == other.public

    def verifies(self, signing_input: bytes, signature: bytes) -> bool:
        return _ALGORITHMS[self.algorithm].verify(signing_input, self.public, signature)


def parse_keys(document: bytes, allowed: frozenset[str]) -> dict[str, SigningKey]:
    """The keys of a set by `kid`. A key that cannot serve is left out: it must not cost the others.

    Raises:
        ValueError: this is no key set, or not one key in it can verify a signature.
    """
    published = parse_object(document).get("keys")
    if not isinstance(published, list):
        raise ValueError("not a JWK Set: no array under keys")  # noqa: TRY004 - one kind of error for bad input
    keys: dict[str, SigningKey] = {}
    ambiguous: set[str] = set()
    for key in filter(None, (_signing_key(jwk, allowed) for jwk in published)):
        if not key.same(keys.setdefault(key.key_id, key)):
            ambiguous.add(key.key_id)
    usable = {key_id: key for key_id, key in keys.items() if key_id not in ambiguous}
    if not usable:
        raise ValueError("the JWK Set holds no usable signing key")
    return usable


def _signing_key(jwk: object, allowed: frozenset[str]) -> SigningKey | None:
    if not isinstance(jwk, dict) or not _is_for_signatures(jwk):
        return None
    key_id, algorithm = jwk.get("kid"), _algorithm(jwk, allowed)
    if not isinstance(key_id, str) or not 1 <= len(key_id) <= MAX_KEY_ID or algorithm is None:
        return None
    try:
        public = PyJWK(jwk, algorithm).key
    except Exception:  # noqa: BLE001 - whatever is wrong with one key, the others must serve
        return None
    if isinstance(public, RSAPublicKey) and public.key_size < MIN_RSA_BITS:
        return None
    return SigningKey(key_id, algorithm, public)


def _is_for_signatures(jwk: dict[str, object]) -> bool:
    """`d` would make it a private key: one that was published is anybody's."""
    operations = jwk.get("key_ops", ["verify"])
    return jwk.get("use", "sig") == "sig" and isinstance(operations, list) and "verify" in operations and "d" not in jwk


def _algorithm(jwk: dict[str, object], allowed: frozenset[str]) -> str | None:
    """The one algorithm of this key: what it names, else the only one of the issuer's that fits it."""
    kty, curve = jwk.get("kty"), jwk.get("crv")
    if not isinstance(kty, str) or not isinstance(curve, str | None):
        return None
    fitting = _FITTING.get((kty, curve), frozenset())
    if "alg" in jwk:
        return next((name for name in fitting if name == jwk["alg"]), None)
    candidates = fitting & allowed
    return next(iter(candidates)) if len(candidates) == 1 else None
