"""Validation of the claims: one function per claim, in the order in which `identify` calls them.

Only claims whose signature was verified come here. Presence first, then type, then value: a claim that we rely on
and that is absent is a refusal, never a skipped check. `null` is absent. What the policy does not use refuses no token:
names in an unknown form are ignored, unless the policy grants something to those who lack one (`Claims.decisive`).
"""

from __future__ import annotations

import re

from ext_authz.decision import Principal
from ext_authz.identity import asap, gitlab
from ext_authz.identity.bound import actor, binding
from ext_authz.identity.claim_paths import kept, names_at
from ext_authz.identity.claim_values import (
    Claims,
    audiences_of,
    ensure_begun,
    ensure_complete,
    ensure_issued_by,
    if_text,
    if_time,
    is_name,
    present,
    text_of,
    time_of_expiry,
    time_of_issue,
    token_id_of,
)
from ext_authz.identity.identity import Identity, invalid, plain
from ext_authz.policy.issuers import Issuer

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
    if issuer.asap:
        return asap.identify(claims, issuer, issuer.asap, now)
    if issuer.gitlab:
        return gitlab.identify(claims, issuer, issuer.gitlab, now)
    if not introspected and is_lightweight(claims):
        raise invalid("token_lightweight", _WITHOUT_ROLES)
    claims = _of_access_token(claims, issuer)
    issued_at = time_of_issue(claims, issuer, now)
    expires_at = time_of_expiry(claims, issuer, issued_at, now)
    ensure_begun(claims, issuer, now)
    audiences = audiences_of(claims, issuer.audiences)
    client = _client(claims, issuer)
    subject = _subject(claims, client)
    token_id = token_id_of(claims)
    roles = names_at(claims, issuer, issuer.claims.roles, "roles")
    return Identity(
        principal=Principal(issuer.issuer, subject, client, plain(sorted(roles)), token_id),
        issuer_name=issuer.name,
        session=_session(claims),
        issued_at=int(issued_at),
        expires_at=expires_at,
        audiences=audiences,
        scopes=names_at(claims, issuer, issuer.claims.scopes, "scopes"),
        roles=roles,
        groups=names_at(claims, issuer, issuer.claims.groups, "groups"),
        claims=kept(claims, issuer),
        username=if_text(claims.get("preferred_username")),
        leeway=issuer.leeway,
        binding=binding(claims, issuer),
        actor=actor(claims),
    )


def claimed(claims: Claims, issuer: Issuer) -> Identity:
    """Of a token that is refused, what names its owner, its audience and its times: empty where it is invalid."""
    client = if_text(claims.get("azp", claims.get("client_id")))
    subject = if_text(claims["sub"]) if "sub" in claims else client
    audience = claims.get("aud")
    return Identity(
        principal=Principal(issuer.issuer, subject, client, (), if_text(claims.get("jti"))),
        issuer_name=issuer.name,
        session=if_text(claims.get("sid")),
        issued_at=int(if_time(claims.get("iat")) or 0),
        expires_at=if_time(claims.get("exp")) or 0,
        audiences=tuple(filter(is_name, audience if isinstance(audience, list) else [audience])),
        scopes=frozenset(),
        roles=frozenset(),
        username=if_text(claims.get("preferred_username")),
    )


def is_lightweight(claims: Claims) -> bool:
    """Keycloak's: without audience and roles, which only its introspection endpoint says."""
    token_id = claims.get("jti")
    return isinstance(token_id, str) and _LIGHTWEIGHT.match(token_id) is not None


def _of_access_token(claims: Claims, issuer: Issuer) -> Claims:
    """Those that are present, of an access token that this issuer gave out."""
    claims = present(claims)
    ensure_complete(claims, _REQUIRED)
    ensure_issued_by(claims, issuer)
    _ensure_access_token(claims, issuer)
    return claims


def _ensure_access_token(claims: Claims, issuer: Issuer) -> None:
    """Keycloak signs ID and logout tokens with the same key; only the claim `typ` distinguishes them."""
    kind = claims["typ"]
    if kind != "Bearer" and (kind != "DPoP" or issuer.cnf != "verify"):
        known = _OTHER_TYPES.get(kind) if isinstance(kind, str) else None
        raise invalid("token_type", known or "the claim typ must be Bearer: this is not an access token")


def _client(claims: Claims, issuer: Issuer) -> str:
    """`azp`, as Keycloak writes it; `client_id` where there is none (RFC 9068 section 2.2)."""
    name = "azp" if "azp" in claims else "client_id"
    client = text_of(claims[name], name) if name in claims else ""
    if issuer.clients and client not in issuer.clients:
        raise invalid("client_refused", "the client that got this token (azp) may not use this service")
    return client


def _subject(claims: Claims, client: str) -> str:
    """Without a `sub` the client acts for itself: RFC 9068 section 2.2 has its id as the subject then."""
    if "sub" in claims:
        return text_of(claims["sub"], "sub")
    if not client:
        raise invalid("claim_missing", "the token has neither sub nor azp")
    return client


def _session(claims: Claims) -> str:
    """Service accounts have none, or an empty one: revoking a session does not affect their tokens."""
    return text_of(claims["sid"], "sid") if claims.get("sid", "") != "" else ""
