"""From a public key in PEM (RFC 7468), as a key repository has it, to the keys that may verify a signature."""

from __future__ import annotations

import re

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from ext_authz.identity.keys import RSA, KeyName, SigningKey, is_usual

MAX_PEM = 16_384
"""Bytes. One of RSA 8192 has some 1500."""

# One block and nothing beside it: of several, two readers may take different ones.
_ONE_KEY = re.compile(
    rb"\s*-----BEGIN (RSA )?PUBLIC KEY-----\s[A-Za-z0-9+/=\s]+-----END (?(1)RSA )PUBLIC KEY-----\s*", re.ASCII
)
_CURVES = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}


def public_keys(document: bytes, key_id: str, allowed: frozenset[str]) -> dict[KeyName, SigningKey]:
    """The key, once for each of the `allowed` algorithms that its type fits.

    Raises:
        ValueError: it is no public key, none that is safe, or for no such algorithm.
    """
    if len(document) > MAX_PEM or _ONE_KEY.fullmatch(document) is None:
        raise ValueError("not one public key in PEM, and nothing else")
    try:
        public = load_pem_public_key(document)
    except Exception:  # noqa: BLE001 - whatever is wrong with the key, it is not used
        raise ValueError("not a public key that can be read") from None
    fitting = _algorithms(public) & allowed
    if not fitting:
        raise ValueError(f"a key that is too weak, too large, or not for {' or '.join(sorted(allowed))}")
    return {(key_id, algorithm): SigningKey(key_id, algorithm, public) for algorithm in fitting}


def _algorithms(public: object) -> frozenset[str]:
    if isinstance(public, RSAPublicKey) and is_usual(public):
        return RSA
    if isinstance(public, EllipticCurvePublicKey) and public.curve.name in _CURVES:
        return frozenset({_CURVES[public.curve.name]})
    return frozenset()
