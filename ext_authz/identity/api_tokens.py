"""The outer form of our own API tokens: `tgl_` + a checksum + `~` + a compact JWS.

Scanners for leaked secrets match the prefix and verify the checksum without a key (`PATTERN`, `unwrap`); a token that
was cut while it was copied is told apart from a forged one. `~` may stand in a bearer token (RFC 6750 section 2.1,
b64token) and in no JWS. Envoy's `jwt_authn` with `value_prefix: "~"` reads what follows it, up to the end: so the JWS
is last (tests/e2e/owners/test_envoy.py).
"""

from __future__ import annotations

import re
import zlib

PREFIX = "tgl_"
CHECKSUM = 6
"""Characters."""
MANAGE_TOKENS, MANAGE_REVOCATIONS, PREDICTIONS = "tollgate:tokens", "tollgate:revocations", "tollgate:predictions"
BILLING, CATALOGUE = "tollgate:billing", "tollgate:catalogue"
"""Scopes that an API token needs to manage its owner's grants, or revocations, to read, export and delete the
predictions of its owner's models, to read the bills that its owner may read, or to publish in the catalogue and read
there what its owner keeps private. Who signed in may give them."""
MANAGEMENT = frozenset({MANAGE_TOKENS, MANAGE_REVOCATIONS, PREDICTIONS, BILLING, CATALOGUE})
"""No identity provider gives these: every owner has them."""
PATTERN = r"tgl_[0-9A-Za-z]{6}~[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+"

_FORM = re.compile(PATTERN, re.ASCII)
_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def wrap(jws: str) -> str:
    """The token as its owner gets it."""
    return f"{PREFIX}{_checksum(jws)}~{jws}"


def unwrap(token: str) -> str:
    """The JWS inside.

    Raises:
        ValueError: this is no whole token; the message does not repeat it.
    """
    if _FORM.fullmatch(token) is None:
        raise ValueError("an API token is tgl_, six characters, ~ and three segments joined by dots")
    checksum, _, jws = token.removeprefix(PREFIX).partition("~")
    if _checksum(jws) != checksum:
        raise ValueError("the checksum of the API token does not match: it was not copied whole")
    return jws


def _checksum(text: str) -> str:
    """CRC-32 in base 62, most significant digit first."""
    number, digits = zlib.crc32(text.encode("ascii")), ""
    for _ in range(CHECKSUM):
        number, digit = divmod(number, 62)
        digits = _BASE62[digit] + digits
    return digits
