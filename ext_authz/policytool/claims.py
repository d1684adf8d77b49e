"""From a few words about a caller to the claims of a whole token, laid out as the policy's issuer lays them out."""

from __future__ import annotations

from collections.abc import Sequence

from ext_authz.errors import ConfigError
from ext_authz.identity.claims import Claims
from ext_authz.policy.documents.base import claim_path
from ext_authz.policy.faults import did_you_mean, shown
from ext_authz.policy.model import ClaimPath, Issuer
from ext_authz.policytool.cases import IdentityDocument

_LIFE = 300
"""Seconds that such a token lives, unless its issuer takes only shorter ones."""


def given_claims(identity: IdentityDocument, issuers: Sequence[Issuer], now: float) -> Claims:
    """The whole payload where it was given; else that of a token which this caller was given just now.

    Raises:
        ConfigError: the policy has no issuer of that name.
    """
    if identity.token is not None:
        return identity.token
    issuer = _issuer(identity.issuer, issuers)
    claims = _good_claims(identity, issuer, int(now))
    for paths, names in ((issuer.claims.roles, identity.roles), (issuer.claims.groups, identity.groups)):
        if names:
            put(claims, paths[0], list(names))
    if identity.scopes:
        put(claims, issuer.claims.scopes[0], " ".join(identity.scopes))
    for name, value in identity.claims.items():
        put(claims, claim_path(name), value)
    return claims


def _good_claims(identity: IdentityDocument, issuer: Issuer, now: int) -> Claims:
    return {
        "iss": issuer.issuer,
        "sub": identity.user,
        "azp": identity.client or min(issuer.clients, default="some-client"),
        "aud": min(issuer.audiences),
        "typ": "Bearer",
        "jti": "some-token",
        "sid": "some-session",
        "iat": now,
        "exp": now + min(_LIFE, issuer.max_token_age),
    }


def _issuer(name: str | None, issuers: Sequence[Issuer]) -> Issuer:
    if not name:
        return issuers[0]
    for issuer in issuers:
        if issuer.name == name:
            return issuer
    names = [issuer.name for issuer in issuers]
    hint = did_you_mean(name, names) or f"it has {', '.join(names)}"
    raise ConfigError(f"the policy has no issuer {shown(name)}: {hint}")


def put(claims: Claims, path: ClaimPath, value: object) -> None:
    """Where the path leads to, with all that has to be made on the way."""
    *above, last = path
    holder = claims
    for step in above:
        below = holder.setdefault(step, {})
        if not isinstance(below, dict):
            below = holder[step] = {}
        holder = below
    holder[last] = value
