"""Compiles `issuers:`."""

from __future__ import annotations

from collections.abc import Sequence

from ext_authz.policy.documents.base import ClaimName, claim_path, seconds
from ext_authz.policy.documents.issuers import DpopDocument, IssuerDocument
from ext_authz.policy.issuers import ClaimPath, Claims, Issuer, Proofs

_ANY_TYPE = frozenset({"jwt", "at+jwt", "application/at+jwt"})
STRICT_TYPE = frozenset({"at+jwt", "application/at+jwt"})
"""RFC 9068."""


def issuer(document: IssuerDocument, decisive: frozenset[str]) -> Issuer:
    """`decisive`: as in `Claims`."""
    return Issuer(
        name=document.name,
        issuer=document.issuer,
        jwks_url=document.key_set_url(),
        audiences=document.audiences,
        algorithms=frozenset(document.algorithms),
        types=STRICT_TYPE if document.strict_type else _ANY_TYPE,
        clients=document.clients,
        claims=_claims(document, decisive),
        cnf=document.cnf,
        proofs=_proofs(document.dpop or DpopDocument()),
        leeway=seconds(document.leeway),
        max_token_age=seconds(document.max_token_age),
        jwks_refresh=seconds(document.jwks_refresh),
        jwks_cooldown=seconds(document.jwks_cooldown),
        jwks_max_stale=seconds(document.jwks_max_stale),
    )


def _proofs(document: DpopDocument) -> Proofs:
    return Proofs(frozenset(document.algorithms), seconds(document.max_age), document.nonce)


def _claims(document: IssuerDocument, decisive: frozenset[str]) -> Claims:
    claims = document.claims
    return Claims(
        roles=_role_paths(document) if claims.roles is None else _paths(claims.roles),
        scopes=_paths(claims.scopes),
        groups=_paths(claims.groups),
        keep={name: claim_path(name) for name in claims.keep},
        decisive=decisive,
    )


def _role_paths(document: IssuerDocument) -> tuple[ClaimPath, ...]:
    """Where Keycloak has them."""
    client = document.roles_client
    return (*Claims().roles, ("resource_access", client, "roles")) if client else Claims().roles


def _paths(names: Sequence[ClaimName]) -> tuple[ClaimPath, ...]:
    return tuple(map(claim_path, names))
