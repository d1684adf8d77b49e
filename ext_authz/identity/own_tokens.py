"""API tokens that Tollgate itself issued: what one may do is what its owner may do now, and no more than it says.

The token says whose it is and what it is limited to; `standing.py` says what its owner is now. The identity is that of
the owner: same issuer, same subject, so that whatever is revoked, permitted or limited by them holds for it too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import replace

from ext_authz.errors import Denied
from ext_authz.identity.api_tokens import MANAGEMENT, PREFIX, unwrap
from ext_authz.identity.cache import Verified
from ext_authz.identity.claim_values import Claims
from ext_authz.identity.claims import claimed, identify
from ext_authz.identity.identity import Identity, RefusedToken, invalid, is_text, plain
from ext_authz.identity.jwks import KeySet
from ext_authz.identity.standing import Owners, Standing, ensure_enabled, owner_key
from ext_authz.identity.tokens import ensure_acceptable, read, signed_claims
from ext_authz.policy.issuers import Issuer
from ext_authz.policy.rights import MODEL_PATTERN, ModelNames

CLIENT = "tollgate:"
"""Before the name of the grant, in `azp`: no client of an identity provider has such a name."""


class GrantClaim(Struct, frozen=True, forbid_unknown_fields=True):
    """The claim `tollgate`."""

    issuer: str
    """Name of the owner's issuer in the policy."""
    kind: Literal["user", "service"]
    models: tuple[str, ...] | UnsetType = UNSET
    """Names or patterns; unset: every model that the owner may use."""
    roles: tuple[str, ...] | UnsetType = UNSET
    """Unset: all that the owner has."""


class ApiTokens:
    """Verifies them. For one event loop."""

    def __init__(self, keys: KeySet, issuers: Sequence[Issuer], owners: Owners, max_token: int) -> None:
        """`issuers`: of the owners."""
        self.keys = keys
        self._issuers = {issuer.name: issuer for issuer in issuers}
        self._owners = owners
        self._max_token = max_token

    async def verify(self, text: str, grace: float, now: float) -> Verified:
        """`grace`: as for `KeySet.key`; `now`: seconds since the epoch.

        Raises:
            Denied
            Unavailable: "jwks", or "postgres" where nothing is known of owners.
        """
        token, issuer = read(_unwrapped(text), self._max_token), self.keys.issuer
        if token.issuer != issuer.issuer:
            raise invalid("issuer_unknown", f"a token that begins with {PREFIX} must be one of Tollgate's own")
        ensure_acceptable(token, issuer)
        key = await self.keys.key((token.key_id, token.algorithm), grace)
        claims = signed_claims(token, issuer, key)
        try:
            identity = await self._identity(claims, issuer, now)
        except Denied as refusal:
            raise RefusedToken(refusal, self._claimed(claims, issuer)) from None
        owner = owner_key(identity.issuer_name, identity.principal.subject)
        return Verified(identity, identity.expires_at + identity.leeway, key, owner=owner)

    async def _identity(self, claims: Claims, issuer: Issuer, now: float) -> Identity:
        token, grant = identify(claims, issuer, now), _granted(claims)
        owner_issuer = self._issuers.get(grant.issuer)
        if owner_issuer is None:
            raise _unknown()
        standing = await self._owners.seek(grant.issuer, token.principal.subject)
        if standing is None or standing.service != (grant.kind == "service"):
            raise _unknown()
        ensure_enabled(standing)
        identity = of_owner(token, grant, standing, owner_issuer)
        if now >= identity.expires_at + identity.leeway:
            raise invalid("token_expired", "the token was replaced by a newer one: use that one")
        return identity

    def _claimed(self, claims: Claims, issuer: Issuer) -> Identity:
        """For the ledger, in the name of the owner's issuer where that is known."""
        named = claims.get("tollgate")
        name = named.get("issuer") if isinstance(named, Mapping) else None
        return claimed(claims, self._issuers.get(name, issuer) if isinstance(name, str) else issuer)


def _unwrapped(text: str) -> str:
    try:
        return unwrap(text)
    except ValueError as wrong:
        raise invalid("token_malformed", str(wrong)) from None


def _unknown() -> Denied:
    return invalid("owner_unknown", "the owner of this API token is not known here: get a new one in the console")


def _granted(claims: Claims) -> GrantClaim:
    """What only these tokens have; all of it is required, and nothing is repaired.

    Raises:
        Denied: the first claim that is not as the console writes it.
    """
    for name in ("sub", "azp", "sid", "scope"):
        value = claims.get(name)
        if not isinstance(value, str) or (not value and name != "scope"):
            raise invalid("claim_missing", f"the API token has no claim {name}")
    client = str(claims["azp"])
    if not client.startswith(CLIENT) or client == CLIENT:
        raise invalid("claim_invalid", f"the claim azp of an API token must begin with {CLIENT}")
    try:
        grant = msgspec.convert(claims.get("tollgate"), GrantClaim)
    except msgspec.ValidationError:
        raise invalid("claim_invalid", "the claim tollgate is not as the console writes it") from None
    if not all(map(is_text, grant.roles or ())) or not all(map(MODEL_PATTERN.fullmatch, grant.models or ())):
        raise invalid("claim_invalid", "the claim tollgate names roles or models that cannot be")
    return grant


def of_owner(token: Identity, grant: GrantClaim, standing: Standing, issuer: Issuer) -> Identity:
    """As the owner, within what the token says. With `owner` where that is less than what the owner has now: to lack
    a role can be a right too, and narrowing a token must give none."""
    held, given = standing.now(), standing.of_tokens()
    roles = given.roles if grant.roles is UNSET else given.roles.intersection(grant.roles)
    who, end = token.principal, standing.ends.get(token.principal.token_id, math.inf)
    identity = replace(
        token,
        principal=replace(who, issuer=issuer.issuer, roles=plain(sorted(roles))),
        issuer_name=issuer.name,
        expires_at=min(token.expires_at, end),
        leeway=0 if end <= token.expires_at else token.leeway,
        scopes=token.scopes & (standing.scopes | MANAGEMENT),
        roles=roles,
        groups=given.groups,
        claims=standing.claims,
        username=standing.username,
        grant=token.session,
        models=None if grant.models is UNSET else ModelNames(grant.models),
    )
    scopes = standing.scopes | (identity.scopes & MANAGEMENT)
    whole = replace(identity, roles=held.roles, groups=held.groups, scopes=scopes, models=None)
    narrowed = (identity.roles, identity.groups, identity.scopes) != (whole.roles, whole.groups, whole.scopes)
    return replace(identity, owner=whole) if narrowed else identity
