"""What the claims of every kind of token have in common: one function per claim, and how values are read.

Presence first, then type, then value: see `claims.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TypeGuard

from ext_authz.identity.identity import MAX_TEXT, invalid, is_text
from ext_authz.policy.issuers import Issuer

Claims = dict[str, object]

MAX_TIME = 253_402_300_799
"""The last second of the year 9999."""

_SURROGATE = re.compile(r"[\ud800-\udfff]")


def present(claims: Claims) -> Claims:
    """Without those that are `null`, except the subject: a user's token must not become that of its client."""
    return {name: value for name, value in claims.items() if value is not None or name == "sub"}


def ensure_complete(claims: Claims, required: Iterable[str]) -> None:
    for name in required:
        if name not in claims:
            raise invalid("claim_missing", f"the token has no claim {name}")


def ensure_issued_by(claims: Claims, issuer: Issuer) -> None:
    """Again, though the issuer was chosen by it: the keys of one issuer must never verify tokens of another."""
    if claims["iss"] != issuer.issuer:
        raise invalid("issuer_unknown", "the token comes from an issuer that is not accepted here")


def time_of_issue(claims: Claims, issuer: Issuer, now: float) -> float:
    issued_at = _time(claims, "iat")
    if issued_at > now + issuer.leeway:
        raise invalid("token_not_yet_valid", "the token was issued in the future: the clocks of the two sides differ")
    return issued_at


def time_of_expiry(claims: Claims, issuer: Issuer, issued_at: float, now: float) -> float:
    expires_at = _time(claims, "exp")
    if now >= expires_at + issuer.leeway:
        raise invalid("token_expired", "the token has expired: get a new one")
    if expires_at - issued_at > issuer.max_token_age:
        raise invalid("claim_invalid", "the token lives longer than is accepted here: exp is too far from iat")
    return expires_at


def ensure_begun(claims: Claims, issuer: Issuer, now: float) -> None:
    if "nbf" in claims and _time(claims, "nbf") > now + issuer.leeway:
        raise invalid("token_not_yet_valid", "the token is not valid yet: its nbf lies in the future")


def audiences_of(claims: Claims, ours: frozenset[str]) -> tuple[str, ...]:
    """A string or an array of strings (RFC 7519 section 4.1.3). `ours`: at least one of these must be among them."""
    claim = claims["aud"]
    audiences = tuple(claim) if isinstance(claim, list) else (claim,)
    if not all(map(is_name, audiences)):
        raise invalid("claim_invalid", "the claim aud must be a string or an array of strings")
    if ours.isdisjoint(audiences):
        accepted = ", ".join(sorted(ours)) or "an OAuth application that the policy accepts, and it has none"
        raise invalid("audience_mismatch", f"the token is not meant for this service: aud must name {accepted}")
    return audiences


def token_id_of(claims: Claims) -> str:
    return text_of(claims["jti"], "jti")


def is_name(value: object) -> TypeGuard[str]:
    """JSON's \\ud800 passes the parser, and no name in a policy has half a surrogate pair."""
    return isinstance(value, str) and (value.isascii() or not _SURROGATE.search(value))


def _time(claims: Claims, name: str) -> float:
    time = if_time(claims[name])
    if time is None:
        raise invalid("claim_invalid", f"the claim {name} is not a time in seconds")
    return time


def if_time(value: object) -> float | None:
    """NumericDate (RFC 7519 section 2). Python treats `true` as a number; we do not."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_TIME:
        return None
    return float(value)


def text_of(value: object, name: str) -> str:
    text = if_text(value)
    if not text:
        raise invalid("claim_invalid", f"the claim {name} must be 1 to {MAX_TEXT} printable characters")
    return text


def if_text(value: object) -> str:
    """Empty for any other value."""
    return value if isinstance(value, str) and is_text(value) else ""
