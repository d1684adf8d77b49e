"""Reads a token that nobody has verified, for an operator who wants it dead: what it says is a claim, not a fact."""

from __future__ import annotations

import jwt
from msgspec import Struct

from ext_authz.errors import ConfigError


class Named(Struct, frozen=True):
    """What a token calls itself."""

    iss: str
    jti: str


def read(token: str) -> Named:
    """Never repeats the token in an error.

    `exp` is not read: a forged one would let the revocation end before the real token does.

    Raises:
        ConfigError: this is no JWT, or it does not name itself.
    """
    try:
        claims = jwt.decode(token.strip(), options={"verify_signature": False})
    except (jwt.InvalidTokenError, ValueError):
        raise ConfigError("--jwt: standard input holds no JWT") from None
    named = (claims.get("iss"), claims.get("jti"))
    match named:
        case (str(iss), str(jti)) if iss and jti:
            return Named(iss, jti)
    raise ConfigError("--jwt: the token has no iss or no jti: revoke its session or user instead")
