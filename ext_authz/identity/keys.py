"""From a JWK Set document (RFC 7517) to the keys that may verify a signature.

Each key is read by itself: one that cannot be used is skipped and does not affect the others.
"""

from __future__ import annotations

import json
import math
import re
from codecs import BOM_UTF8
from collections.abc import Iterator, Mapping
from hashlib import sha256
from typing import Any

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt import PyJWK
from jwt.algorithms import get_default_algorithms
from msgspec import Struct

from ext_authz.identity.strict_json import encode_base64url, parse_object

MIN_RSA_BITS = 2048
MAX_RSA_BITS = 8192
MAX_RSA_EXPONENT_BITS = 64
"""A longer modulus or exponent would make every signature check expensive."""
MAX_KEY_ID = 200
MAX_KEYS = 256
"""Entries of one set, usable or not."""

KeyName = tuple[str, str]
"""`kid` and `alg`: an issuer may publish one `kid` for several algorithms or types of keys (RFC 7517 section 4.5)."""

RSA = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
"""What an RSA key can verify."""
_FITTING: dict[tuple[object, object], frozenset[str]] = {
    ("RSA", None): RSA,
    ("EC", "P-256"): frozenset({"ES256"}),
    ("EC", "P-384"): frozenset({"ES384"}),
    ("EC", "P-521"): frozenset({"ES512"}),
    ("OKP", "Ed25519"): frozenset({"EdDSA"}),
    ("OKP", "Ed448"): frozenset({"EdDSA"}),
}
"""Key type and curve to the algorithms that such a key can verify. Symmetric keys must never be added."""

_PRIVATE = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
"""Members of a private key (RFC 7518 section 6): a published private key is compromised."""

_THUMBPRINT = {"RSA": ("e", "kty", "n"), "EC": ("crv", "kty", "x", "y"), "OKP": ("crv", "kty", "x")}
"""The members that a thumbprint covers (RFC 7638 section 3.2, RFC 8037 section 2): all that the public key is."""

_ALGORITHMS = get_default_algorithms()


class SigningKey(Struct, eq=False):
    """One public key, for one algorithm (RFC 8725 section 3.1)."""

    key_id: str
    algorithm: str
    public: Any
    """A public key of cryptography, of the type that `algorithm` needs."""
    trusted_until: float = -math.inf
    """Monotonic time. Extended while the issuer publishes the key, -inf once it no longer does."""

    @property
    def name(self) -> KeyName:
        """What a token selects it by."""
        return self.key_id, self.algorithm

    def same(self, other: SigningKey | None) -> bool:
        """Whether both are the same key for the same use."""
        return other is not None and self.algorithm == other.algorithm and self.public == other.public

    def verifies(self, signing_input: bytes, signature: bytes) -> bool:
        return _ALGORITHMS[self.algorithm].verify(signing_input, self.public, signature)


NO_KEY = SigningKey("", "", None, math.inf)
"""Of a token that its issuer vouches for otherwise."""

# Strings as a whole, punctuation, or whatever else stands together. Possessive: linear for any input.
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[\[\]{},:]|[^\s"\[\]{},:]++', re.DOTALL)


def split_keys(document: bytes) -> list[bytes]:
    """The entries of a JWK Set, each as it was written and not yet parsed. A leading byte order mark is skipped.

    Not by a JSON parser: it would refuse the whole document for one invalid entry.

    Raises:
        ValueError: this is not a JWK Set, or one of more than `MAX_KEYS` entries.
    """
    keys, start, name = [], -1, b""
    ended = False
    for depth, token in _tokens(document.removeprefix(BOM_UTF8).strip()):
        text = token[0]
        if start >= 0 and (depth, text) in ((2, b","), (1, b"]")):
            keys.append(token.string[start : token.start()])
            start, ended = (-1, True) if text == b"]" else (token.end(), False)
        elif depth == 1 and text == b"[" and name == b'"keys"':
            keys, start = [], token.end()
        elif depth == 1 and text.startswith(b'"'):
            name = text
    if not ended:
        raise ValueError("not a JWK Set: no whole JSON object with an array `keys`")
    if len(keys) > MAX_KEYS:
        raise ValueError(f"a JWK Set of {len(keys)} keys: at most {MAX_KEYS} are accepted")
    return keys


def _tokens(document: bytes) -> Iterator[tuple[int, re.Match[bytes]]]:
    """The tokens of a JSON object, each with the number of brackets around it."""
    if not (document.startswith(b"{") and document.endswith(b"}")):
        return
    depth = 0
    for token in _TOKEN.finditer(document):
        depth -= token[0] in (b"]", b"}")
        yield depth, token
        depth += token[0] in (b"[", b"{")


def parse_keys(document: bytes, allowed: frozenset[str]) -> dict[KeyName, SigningKey]:
    """The keys of a set. Two different ones for the same `kid` and algorithm are ambiguous, and neither is used.

    Raises:
        ValueError: this is not a JWK Set, or no key in it can verify a signature.
    """
    keys: dict[KeyName, SigningKey] = {}
    ambiguous: set[KeyName] = set()
    for raw in split_keys(document):
        for key in _signing_keys(raw, allowed):
            if not key.same(keys.setdefault(key.name, key)):
                ambiguous.add(key.name)
    usable = {name: key for name, key in keys.items() if name not in ambiguous}
    if not usable:
        raise ValueError("the JWK Set holds no usable signing key")
    return usable


def _signing_keys(raw: bytes, allowed: frozenset[str]) -> Iterator[SigningKey]:
    """The key that one entry holds, once for each algorithm that it serves."""
    try:
        # null is absent: some serialisers write every member that they know.
        jwk = {name: value for name, value in parse_object(raw).items() if value is not None}
    except ValueError:
        return
    key_id, algorithms = jwk.get("kid"), _algorithms(jwk, allowed)
    if isinstance(key_id, str) and 1 <= len(key_id) <= MAX_KEY_ID and algorithms and _is_for_signatures(jwk):
        public = _public(jwk, min(algorithms))
        if public is not None:
            yield from (SigningKey(key_id, algorithm, public) for algorithm in algorithms)


def embedded_key(jwk: Mapping[str, object], algorithm: str) -> SigningKey | None:
    """A public key that a message brings along, with its thumbprint (RFC 7638) as its id; None where it does not fit
    the algorithm, or is not the public part alone."""
    names = _THUMBPRINT.get(str(jwk.get("kty")), ())
    public = {name: value for name in names if isinstance(value := jwk.get(name), str)}
    fitting = algorithm in _FITTING.get((public.get("kty"), public.get("crv")), frozenset())
    if len(public) < len(names) or not fitting or not _PRIVATE.isdisjoint(jwk):
        return None
    key = _public(dict(public), algorithm)
    return SigningKey(_thumbprint(public), algorithm, key) if key is not None else None


def _thumbprint(public: Mapping[str, str]) -> str:
    return encode_base64url(sha256(json.dumps(public, separators=(",", ":"), sort_keys=True).encode()).digest())


def _public(jwk: dict[str, object], algorithm: str) -> object:
    try:
        public = PyJWK(jwk, algorithm).key
    except Exception:  # noqa: BLE001 - whatever is wrong with one key, the others are used
        return None
    return None if isinstance(public, RSAPublicKey) and not is_usual(public) else public


def is_usual(key: RSAPublicKey) -> bool:
    """Neither too weak nor so large that every signature check would be expensive."""
    exponent_bits = key.public_numbers().e.bit_length()
    return MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS and exponent_bits <= MAX_RSA_EXPONENT_BITS


def _is_for_signatures(jwk: dict[str, object]) -> bool:
    operations = jwk.get("key_ops", ["verify"])
    for_signatures = jwk.get("use", "sig") == "sig" and isinstance(operations, list) and "verify" in operations
    return for_signatures and _PRIVATE.isdisjoint(jwk)


def _algorithms(jwk: dict[str, object], allowed: frozenset[str]) -> frozenset[str]:
    """The one that the key names; else those of the issuer's that fit its type and curve."""
    kty, curve, named = jwk.get("kty"), jwk.get("crv"), jwk.get("alg")
    if not isinstance(kty, str) or not isinstance(curve, str | None):
        return frozenset()
    fitting = _FITTING.get((kty, curve), frozenset())
    return fitting & allowed if named is None else frozenset(name for name in fitting if name == named)
