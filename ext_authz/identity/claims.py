"""Validation of the claims: one function per claim, in the order in which `identify` calls them.

Only claims whose signature was verified come here. Presence first, then type, then value: a claim that we rely on
and that is absent is a refusal, never a skipped check. `null` is absent. What the policy does not use refuses no token:
names in an unknown form are ignored, unless the policy grants something to those who lack one (`Claims.decisive`).
"""

from __future__ import annotations

import re
from typing import TypeGuard

from ext_authz.decision import Principal
from ext_authz.identity.bound import actor, binding
from ext_authz.identity.identity import MAX_TEXT, Claim, Identity, invalid, is_text, plain
from ext_authz.policy.issuers import ClaimPath, Issuer

Claims = dict[str, object]

MAX_TIME = 253_402_300_799
"""The last second of the year 9999."""
MAX_NUMBER = 2**63 - 1
"""Conditions count in 64 bits."""

_MISSHAPEN = object()
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_REQUIRED = ("iss", "exp", "iat", "jti", "aud", "typ")
# Keycloak 26.2 and later: kind of session, kind of token, grant; two letters each. `lt` is a lightweight token.
_LIGHTWEIGHT = re.compile(r"[a-z]{2}lt[a-z]{2}:")
_WITHOUT_ROLES = (
    "this is a lightweight access token, which lacks the roles: switch lightweight tokens off for the client, "
    "or allow introspection in the policy"
)
_OTHER_TYPES = {
    "ID": "an ID token is for the client that the user logged in to; send the access token",
    "Refresh": "a refresh token is for the token endpoint only; send the access token",
    "Offline": "an offline token is for the token endpoint only; send the access token",
    "Logout": "a logout token is not an access token",
    "DPoP": "tokens that are bound to a key (DPoP) are not accepted here",
}


def identify(claims: Claims, issuer: Issuer, now: float, *, introspected: bool = False) -> Identity:
    """The caller that these claims describe. `introspected`: they are what the issuer said about a token.

    Raises:
        Denied: with the first claim that is missing or invalid.
    """
    if not introspected and is_lightweight(claims):
        raise invalid("token_lightweight", _WITHOUT_ROLES)
    claims = _of_access_token(claims, issuer)
    issued_at = _issued_at(claims, issuer, now)
    expires_at = _expires_at(claims, issuer, issued_at, now)
    _ensure_begun(claims, issuer, now)
    audiences = _audiences(claims, issuer)
    client = _client(claims, issuer)
    subject = _subject(claims, client)
    token_id = _token_id(claims)
    roles = _names(claims, issuer, issuer.claims.roles, "roles")
    return Identity(
        principal=Principal(issuer.issuer, subject, client, plain(sorted(roles)), token_id),
        issuer_name=issuer.name,
        session=_session(claims),
        issued_at=int(issued_at),
        expires_at=expires_at,
        audiences=audiences,
        scopes=_names(claims, issuer, issuer.claims.scopes, "scopes"),
        roles=roles,
        groups=_names(claims, issuer, issuer.claims.groups, "groups"),
        claims=_kept(claims, issuer),
        username=_if_text(claims.get("preferred_username")),
        leeway=issuer.leeway,
        binding=binding(claims, issuer),
        actor=actor(claims),
    )


def claimed(claims: Claims, issuer: Issuer) -> Identity:
    """Of a token that is refused, what names its owner, its audience and its times: empty where it is invalid."""
    client = _if_text(claims.get("azp", claims.get("client_id")))
    subject = _if_text(claims["sub"]) if "sub" in claims else client
    audience = claims.get("aud")
    return Identity(
        principal=Principal(issuer.issuer, subject, client, (), _if_text(claims.get("jti"))),
        issuer_name=issuer.name,
        session=_if_text(claims.get("sid")),
        issued_at=int(if_time(claims.get("iat")) or 0),
        expires_at=if_time(claims.get("exp")) or 0,
        audiences=tuple(filter(_is_name, audience if isinstance(audience, list) else [audience])),
        scopes=frozenset(),
        roles=frozenset(),
        username=_if_text(claims.get("preferred_username")),
    )


def is_lightweight(claims: Claims) -> bool:
    """Keycloak's: without audience and roles, which only its introspection endpoint says."""
    token_id = claims.get("jti")
    return isinstance(token_id, str) and _LIGHTWEIGHT.match(token_id) is not None


def _of_access_token(claims: Claims, issuer: Issuer) -> Claims:
    """Those that are present, of an access token that this issuer gave out."""
    claims = _present(claims)
    _ensure_complete(claims)
    _ensure_issued_by(claims, issuer)
    _ensure_access_token(claims, issuer)
    return claims


def _present(claims: Claims) -> Claims:
    """Without those that are `null`, except the subject: a user's token must not become that of its client."""
    return {name: value for name, value in claims.items() if value is not None or name == "sub"}


def _ensure_complete(claims: Claims) -> None:
    for name in _REQUIRED:
        if name not in claims:
            raise invalid("claim_missing", f"the token has no claim {name}")


def _ensure_issued_by(claims: Claims, issuer: Issuer) -> None:
    """Again, though the issuer was chosen by it: the keys of one issuer must never verify tokens of another."""
    if claims["iss"] != issuer.issuer:
        raise invalid("issuer_unknown", "the token comes from an issuer that is not accepted here")


def _ensure_access_token(claims: Claims, issuer: Issuer) -> None:
    """Keycloak signs ID and logout tokens with the same key; only the claim `typ` distinguishes them."""
    kind = claims["typ"]
    if kind != "Bearer" and (kind != "DPoP" or issuer.cnf != "verify"):
        known = _OTHER_TYPES.get(kind) if isinstance(kind, str) else None
        raise invalid("token_type", known or "the claim typ must be Bearer: this is not an access token")


def _issued_at(claims: Claims, issuer: Issuer, now: float) -> float:
    issued_at = _time(claims, "iat")
    if issued_at > now + issuer.leeway:
        raise invalid("token_not_yet_valid", "the token was issued in the future: the clocks of the two sides differ")
    return issued_at


def _expires_at(claims: Claims, issuer: Issuer, issued_at: float, now: float) -> float:
    expires_at = _time(claims, "exp")
    if now >= expires_at + issuer.leeway:
        raise invalid("token_expired", "the token has expired: get a new one")
    if expires_at - issued_at > issuer.max_token_age:
        raise invalid("claim_invalid", "the token lives longer than is accepted here: exp is too far from iat")
    return expires_at


def _ensure_begun(claims: Claims, issuer: Issuer, now: float) -> None:
    if "nbf" in claims and _time(claims, "nbf") > now + issuer.leeway:
        raise invalid("token_not_yet_valid", "the token is not valid yet: its nbf lies in the future")


def _audiences(claims: Claims, issuer: Issuer) -> tuple[str, ...]:
    """A string or an array of strings (RFC 7519 section 4.1.3)."""
    claim = claims["aud"]
    audiences = tuple(claim) if isinstance(claim, list) else (claim,)
    if not all(map(_is_name, audiences)):
        raise invalid("claim_invalid", "the claim aud must be a string or an array of strings")
    if issuer.audiences.isdisjoint(audiences):
        accepted = ", ".join(sorted(issuer.audiences))
        raise invalid("audience_mismatch", f"the token is not meant for this service: aud must name {accepted}")
    return audiences


def _client(claims: Claims, issuer: Issuer) -> str:
    """`azp`, as Keycloak writes it; `client_id` where there is none (RFC 9068 section 2.2)."""
    name = "azp" if "azp" in claims else "client_id"
    client = _text(claims[name], name) if name in claims else ""
    if issuer.clients and client not in issuer.clients:
        raise invalid("client_refused", "the client that got this token (azp) may not use this service")
    return client


def _subject(claims: Claims, client: str) -> str:
    """Without a `sub` the client acts for itself: RFC 9068 section 2.2 has its id as the subject then."""
    if "sub" in claims:
        return _text(claims["sub"], "sub")
    if not client:
        raise invalid("claim_missing", "the token has neither sub nor azp")
    return client


def _token_id(claims: Claims) -> str:
    return _text(claims["jti"], "jti")


def _names(claims: Claims, issuer: Issuer, paths: tuple[ClaimPath, ...], what: str) -> frozenset[str]:
    """The names in all these claims; each an array, or one string, which is a name or, of scopes, names separated by
    spaces (RFC 8693 section 4.2). Whatever their length and characters: a comparison must see all of them."""
    found: list[object] = []
    for path in paths:
        value = _at(claims, path)
        if isinstance(value, str) and what == "scopes":
            value = [name for name in value.split(" ") if name]
        found += value if isinstance(value, list) else [value]
    names = frozenset(name for name in found if _is_name(name))
    if what in issuer.claims.decisive and not all(name is None or _is_name(name) for name in found):
        raise invalid("claim_invalid", f"the {what} in the token are not an array of names")
    return names


def _is_name(value: object) -> TypeGuard[str]:
    """JSON's \\ud800 passes the parser, and no name in a policy has half a surrogate pair."""
    return isinstance(value, str) and (value.isascii() or not _SURROGATE.search(value))


def _at(claims: Claims, path: ClaimPath) -> object:
    """The value at this path; None where it is absent, `_MISSHAPEN` where a part of the path is not an object."""
    holder: object = claims
    for key in path:
        if not isinstance(holder, dict):
            return holder if holder is None else _MISSHAPEN
        holder = holder.get(key)
    return holder


def _kept(claims: Claims, issuer: Issuer) -> dict[str, Claim]:
    found = ((name, path, _at(claims, path)) for name, path in issuer.claims.keep.items())
    return {name: _keepable(value, ".".join(path)) for name, path, value in found if value is not None}


def _keepable(value: object, name: str) -> Claim:
    """A number is compared and counted by as it is; everything else is text that is passed on."""
    if isinstance(value, bool | int | float):
        if not -MAX_NUMBER <= value <= MAX_NUMBER:
            raise invalid("claim_invalid", f"the claim {name} is a number out of range")
        return value
    return tuple(_text(item, name) for item in value) if isinstance(value, list) else _text(value, name)


def _session(claims: Claims) -> str:
    """Service accounts have none, or an empty one: revoking a session does not affect their tokens."""
    return _text(claims["sid"], "sid") if claims.get("sid", "") != "" else ""


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


def _text(value: object, name: str) -> str:
    text = _if_text(value)
    if not text:
        raise invalid("claim_invalid", f"the claim {name} must be 1 to {MAX_TEXT} printable characters")
    return text


def _if_text(value: object) -> str:
    """Empty for any other value."""
    return value if isinstance(value, str) and is_text(value) else ""
