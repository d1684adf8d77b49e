"""From the Authorization header to a verified identity, without I/O and without state.

single(authorization)                      the one value of the header
credential(value)                          the scheme and the token in it
read(text)                                 canonical form, no parameter that brings its own key, claims not yet read
ensure_acceptable(token, issuer)           before a key is looked up: the issuer's algorithms and types only
signed_claims(token, issuer, key)          the signature; what it says is not yet read
verify(token, issuer, key, now)            signature, then claims: an Identity, or Denied

Before the signature is verified, `iss` is the only claim that is read, to know whose keys to try. Reading all claims of
a large token costs ten times a signature check, and an invalid token must not be able to cause that.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import msgspec
from msgspec import Struct

from ext_authz.decision import Reason
from ext_authz.errors import Denied
from ext_authz.identity.claim_values import Claims
from ext_authz.identity.claims import claimed, identify
from ext_authz.identity.identity import Identity, RefusedToken, invalid
from ext_authz.identity.keys import MAX_KEY_ID, SigningKey
from ext_authz.identity.strict_json import decode_base64url, parse_object
from ext_authz.policy.issuers import Issuer

MAX_TOKEN = 32_768
"""Bytes, the default of TOLLGATE_MAX_TOKEN_BYTES: some 500 roles. Envoy's default for all headers together is 60 KiB
(HttpConnectionManager.max_request_headers_kb)."""
MAX_HEADER = 1024

REFUSED_PARAMETERS = frozenset({"jku", "jwk", "x5u", "x5c", "zip", "b64", "crit", "enc", "epk", "cty"})
"""Parameters that bring their own key, change what is signed, or belong to encryption (RFC 8725 section 3.10)."""

_MAX_BRACKETS = 4096
"""Opening brackets in the claims. The decoder recurses, and the depth of a thread's stack depends on the server."""
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
COMPACT = re.compile(r"[A-Za-z0-9_-]++\.[A-Za-z0-9_-]++\.[A-Za-z0-9_-]++", re.ASCII)
"""A JWS in compact form (RFC 7515 section 7.1)."""
BEARER, DPOP = "bearer", "dpop"
"""Schemes of Authorization, in lower case: RFC 6750, and RFC 9449 for tokens that are bound to a key."""


def single(authorization: tuple[str, ...], max_token: int = MAX_TOKEN) -> str:
    """The one value of the header. Two are ambiguous: an upstream may read the other one."""
    if not any(authorization):
        raise Denied(Reason.NO_CREDENTIAL, "credential_missing", "no credential: send Authorization: Bearer <token>")
    if len(authorization) > 1:
        raise _repeated()
    if len(authorization[0]) > len("Bearer ") + max_token:
        raise invalid("token_too_large", f"the token is longer than {max_token} bytes")
    return authorization[0]


def credential(authorization: str, *, dpop: bool = False) -> tuple[str, str]:
    """The scheme, in lower case, and what follows it and exactly one space; nothing is trimmed or repaired.

    `dpop`: besides Bearer, DPoP is accepted.
    """
    scheme, _, token = authorization.partition(" ")
    name = scheme.lower()
    # Without raw headers Envoy joins repeated ones with a comma, which no token contains.
    if "," in authorization and any(known in authorization.lower() for known in (BEARER, DPOP)):
        raise _repeated()
    if name != BEARER and not (dpop and name == DPOP):
        # RFC 6750 section 3.1: an unsupported scheme counts as no credential, and is answered without an error code.
        accepted = "schemes that are accepted are Bearer and DPoP" if dpop else "scheme that is accepted is Bearer"
        raise Denied(Reason.NO_CREDENTIAL, "scheme_unsupported", f"the only Authorization {accepted}")
    if not token or token.startswith(" "):
        wanted = f"write {scheme}, exactly one space, then the token"
        raise Denied(Reason.INVALID_REQUEST, "credential_malformed", wanted)
    return name, token


def _repeated() -> Denied:
    return Denied(Reason.INVALID_REQUEST, "credential_repeated", "more than one credential: send Authorization once")


class _Issued(Struct):
    iss: Any = None


_decode_issued = msgspec.json.Decoder(_Issued).decode


class Token(Struct, frozen=True, eq=False):
    """One JWS in compact form, unverified (RFC 7515 section 7.1)."""

    algorithm: str
    key_id: str
    type: str
    issuer: str
    """`iss` as the token claims it: only to choose whose keys to try."""
    payload: bytes
    """The claims in JSON, not yet parsed."""
    signing_input: bytes
    signature: bytes


def read(text: str, max_token: int = MAX_TOKEN, issuer: str = "") -> Token:
    """Split the token into its parts. `issuer`: of a message that names none.

    Raises:
        Denied: it is not one canonical JWS of JSON objects with the parameters that we need.
    """
    if len(text) > max_token:
        raise invalid("token_too_large", f"the token is longer than {max_token} bytes")
    if COMPACT.fullmatch(text) is None:
        raise invalid("token_malformed", "the token is not a JWT: three base64url segments joined by dots are expected")
    header_text, claims_text, signature_text = text.split(".")
    algorithm, key_id, kind = _header(header_text)
    payload = _canonical(claims_text, "claims")
    return Token(
        algorithm=algorithm,
        key_id=key_id,
        type=kind,
        issuer=issuer or _issuer(payload),
        payload=payload,
        signing_input=text[: text.rindex(".")].encode("ascii"),
        signature=_canonical(signature_text, "signature"),
    )


@lru_cache(maxsize=64)
def _header(segment: str) -> tuple[str, str, str]:
    """`alg`, `kid` and `typ`. All tokens that are signed with one key have the same header; refusals are not kept."""
    raw = _canonical(segment, "header")
    if len(raw) > MAX_HEADER:
        raise invalid("token_too_large", f"the header of the token is longer than {MAX_HEADER} bytes")
    header = _object(raw, "header")
    if refused := sorted(REFUSED_PARAMETERS & header.keys()):
        raise invalid("header_refused", f"the header of the token carries {refused[0]}, which is never accepted")
    return _parameter(header, "alg"), _key_id(header), _type(header)


def _canonical(segment: str, part: str) -> bytes:
    """A token has one text."""
    try:
        return decode_base64url(segment)
    except ValueError:
        raise invalid("token_malformed", f"the {part} of the token is not canonical base64url") from None


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
    """Only `iss`: agrees with the strict parser on everything that it accepts, and is many times faster."""
    if payload.count(b"[") + payload.count(b"{") > _MAX_BRACKETS:
        raise _malformed("claims")
    if b"\\u" in payload:  # half a pair is malformed to this decoder, not to the strict parser
        payload = _SURROGATE.sub(rb"\\ufffd", payload)
    try:
        return _decode_issued(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise _malformed("claims") from None


def _object(raw: bytes, part: str) -> Claims:
    try:
        return parse_object(raw)
    except ValueError:
        raise _malformed(part) from None


def _malformed(part: str) -> Denied:
    return invalid("token_malformed", f"the {part} of the token must be one plain JSON object")


def verify(token: Token, issuer: Issuer, key: SigningKey, now: float) -> Identity:
    """The caller that the token identifies. Safe on its own: it relies on no earlier check.

    Raises:
        Denied: with the first cause that is found; RefusedToken if the signature is valid.
    """
    return identified(signed_claims(token, issuer, key), issuer, now)


def identified(claims: Claims, issuer: Issuer, now: float, *, introspected: bool = False) -> Identity:
    """As `claims.identify`. Raises RefusedToken, with what can be said of its owner."""
    try:
        return identify(claims, issuer, now, introspected=introspected)
    except Denied as refusal:
        raise RefusedToken(refusal, claimed(claims, issuer)) from None


def signed_claims(token: Token, issuer: Issuer, key: SigningKey) -> Claims:
    """What this issuer signed with this key, whatever it means. Raises Denied."""
    ensure_acceptable(token, issuer)
    _ensure_key_fits(token, key)
    if not key.verifies(token.signing_input, token.signature):
        raise invalid("signature_invalid", "the signature of the token does not match")
    return _object(token.payload, "claims")


def ensure_acceptable(token: Token, issuer: Issuer) -> None:
    """The policy defines the algorithms and types; the token only selects one of them."""
    if token.algorithm not in issuer.algorithms:
        raise invalid("algorithm_refused", f"the token must be signed with {_names(issuer.algorithms)}")
    if token.type not in issuer.types:
        raise invalid("token_type", f"the header of the token must have typ {_names(issuer.types)}")


def _ensure_key_fits(token: Token, key: SigningKey) -> None:
    if token.key_id != key.key_id:
        raise invalid("key_unknown", "the token is signed with a key that its issuer does not publish")
    if token.algorithm != key.algorithm:
        raise invalid("algorithm_refused", "the key named in the token is published for another algorithm")


def _names(accepted: frozenset[str]) -> str:
    return " or ".join(sorted(accepted))
