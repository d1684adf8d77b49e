"""From the text of a token to its parts. Nothing here is believed yet: no signature has been looked at.

So little is read: of the claims only `iss`, in passing, to know whose keys to try. Reading all of a large token costs
ten times a signature check, and would be what junk buys.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any

import msgspec
from msgspec import Struct

from ext_authz.errors import Denied
from ext_authz.identity.credential import MAX_TOKEN
from ext_authz.identity.refusal import invalid
from ext_authz.identity.strict_json import parse_object

MAX_HEADER = 1024
MAX_KEY_ID = 200

REFUSED_PARAMETERS = frozenset({"jku", "jwk", "x5u", "x5c", "zip", "b64", "crit", "enc", "epk", "cty"})
"""Parameters that bring their own key, change what is signed, or belong to encryption (RFC 8725 section 3.10)."""

_MAX_BRACKETS = 4096
"""Opening ones in the claims. The decoder recurses, and how deep a thread's stack is depends on the server."""
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
_COMPACT = re.compile(r"[A-Za-z0-9_-]++\.[A-Za-z0-9_-]++\.[A-Za-z0-9_-]++", re.ASCII)


class _Issued(Struct):
    iss: Any = None


_decode_issued = msgspec.json.Decoder(_Issued).decode


class Token(Struct, frozen=True, eq=False):
    """One JWS in compact form, unverified (RFC 7515 section 7.1)."""

    algorithm: str
    key_id: str
    type: str
    issuer: str
    """`iss` as the token claims it: good for choosing whose keys to try, for nothing else."""
    payload: bytes
    """The claims in JSON, not yet read: `parse_object` of `strict_json` reads them."""
    signing_input: bytes
    signature: bytes


def read(text: str, max_token: int = MAX_TOKEN) -> Token:
    """Take the token apart.

    Raises:
        Denied: it is not one canonical JWS with JSON objects on both sides and the parameters that we need.
    """
    if len(text) > max_token:
        raise invalid("token_too_large", f"the token is longer than {max_token} bytes")
    if _COMPACT.fullmatch(text) is None:
        raise invalid("token_malformed", "the token is not a JWT: three base64url segments joined by dots are expected")
    header_text, claims_text, signature_text = text.split(".")
    header = _header(header_text)
    payload = _canonical(claims_text, "claims")
    return Token(
        algorithm=_parameter(header, "alg"),
        key_id=_key_id(header),
        type=_type(header),
        issuer=_issuer(payload),
        payload=payload,
        signing_input=text[: text.rindex(".")].encode("ascii"),
        signature=_canonical(signature_text, "signature"),
    )


def _header(segment: str) -> dict[str, object]:
    raw = _canonical(segment, "header")
    if len(raw) > MAX_HEADER:
        raise invalid("token_too_large", f"the header of the token is longer than {MAX_HEADER} bytes")
    try:
        header = parse_object(raw)
    except ValueError:
        raise malformed("header") from None
    if refused := sorted(REFUSED_PARAMETERS & header.keys()):
        raise invalid("header_refused", f"the header of the token carries {refused[0]}, which is never taken")
    return header


def _canonical(segment: str, part: str) -> bytes:
    """Decode, and refuse every other spelling of the same bytes: one token has one text (RFC 4648 section 3.5)."""
    encoded = segment.encode("ascii")
    try:
        raw = urlsafe_b64decode(encoded + b"=" * (-len(encoded) % 4))
    except ValueError:
        raw = b""
    if urlsafe_b64encode(raw).rstrip(b"=") != encoded:
        raise invalid("token_malformed", f"the {part} of the token is not canonical base64url")
    return raw


def _key_id(header: dict[str, object]) -> str:
    key_id = _parameter(header, "kid")
    if not 1 <= len(key_id) <= MAX_KEY_ID:
        raise invalid("token_malformed", f"kid must have 1 to {MAX_KEY_ID} characters")
    return key_id


def _type(header: dict[str, object]) -> str:
    """Media types compare without case (RFC 7515 section 4.1.9)."""
    return _parameter(header, "typ").lower()


def _parameter(header: dict[str, object], name: str) -> str:
    value = header.get(name)
    if not isinstance(value, str):
        raise invalid("token_malformed", f"the header of the token must hold {name}, as a string")
    return value


def _issuer(payload: bytes) -> str:
    issuer = _issued(payload).iss
    if issuer is None:
        raise invalid("claim_missing", "the token has no claim iss")
    if not isinstance(issuer, str):
        raise invalid("claim_invalid", "the claim iss is not a string")
    return issuer


def _issued(payload: bytes) -> _Issued:
    """Reads as the strict parser does, but for what that refuses, and at the speed of a glance."""
    if payload.count(b"[") + payload.count(b"{") > _MAX_BRACKETS:
        raise malformed("claims")
    if b"\\u" in payload:  # which this decoder takes for malformed where it is half a pair
        payload = _SURROGATE.sub(rb"\\ufffd", payload)
    try:
        return _decode_issued(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise malformed("claims") from None


def malformed(part: str) -> Denied:
    return invalid("token_malformed", f"the {part} of the token must be one plain JSON object")
