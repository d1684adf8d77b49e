"""DPoP proofs for tests (RFC 9449): good ones by default, and whatever an attacker would send."""

from __future__ import annotations

import json
import time
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from hashlib import sha256
from itertools import count

from tests.tokens import ABSENT, EC256, TestKey, b64, sign, to_json, without_absent

_PUBLIC = {"RSA": ("e", "kty", "n"), "EC": ("crv", "kty", "x", "y"), "OKP": ("crv", "kty", "x")}
_numbers = count()


class Holder:
    """Somebody with a key, who makes a proof for each request."""

    def __init__(self, key: TestKey = EC256) -> None:
        self.key = key
        jwk = key.jwk()
        self.jwk = {name: jwk[name] for name in _PUBLIC[str(jwk["kty"])]}
        self.thumbprint = b64(sha256(json.dumps(self.jwk, separators=(",", ":"), sort_keys=True).encode()).digest())
        """RFC 7638."""

    @property
    def cnf(self) -> dict[str, object]:
        """Of a token that is bound to the key."""
        return {"jkt": self.thumbprint}

    def proof(
        self,
        method: str,
        url: str,
        token: str = "",
        claims: Mapping[str, object] | None = None,
        *,
        header: Mapping[str, object] | None = None,
        now: float | None = None,
        key: TestKey | None = None,
    ) -> str:
        """`token`: without one it is for the token endpoint. `key`: which signs in place of the holder's."""
        key = key or self.key
        made: dict[str, object] = {"jti": f"proof-{next(_numbers)}-{time.time_ns()}", "htm": method, "htu": url}
        made |= {"iat": int(time.time() if now is None else now), "ath": hash_of(token) if token else ABSENT}
        named = {"typ": "dpop+jwt", "alg": key.algorithm, "jwk": self.jwk}
        text = to_json(without_absent({**named, **(header or {})}))
        return sign(text, to_json(without_absent({**made, **(claims or {})})), key)


def hash_of(token: str) -> str:
    """`ath`."""
    return urlsafe_b64encode(sha256(token.encode()).digest()).rstrip(b"=").decode()
