"""Compiles `issuers:`."""

from __future__ import annotations

from collections.abc import Sequence

from ext_authz.policy.diagnostics import Diagnostics
from ext_authz.policy.documents.asap import AsapDocument
from ext_authz.policy.documents.base import ClaimName, claim_path, seconds
from ext_authz.policy.documents.gitlab import GitlabDocument, GitlabRightsDocument
from ext_authz.policy.documents.issuers import DpopDocument, IntrospectionDocument, IssuerDocument
from ext_authz.policy.faults import shown
from ext_authz.policy.issuers import Asap, ClaimPath, Claims, Gitlab, Introspection, Issuer, ProjectRights, Proofs

_ANY_TYPE = frozenset({"jwt", "at+jwt", "application/at+jwt"})
STRICT_TYPE = frozenset({"at+jwt", "application/at+jwt"})
"""RFC 9068."""
_GITLAB_GROUPS: tuple[ClaimPath, ...] = (("groups_direct",),)
_LEVELS = {"guest": 10, "planner": 15, "reporter": 20, "developer": 30, "maintainer": 40, "owner": 50}
"""As GitLab numbers them."""
_HOUR = 3600
"""ASAP accepts no token that lives longer."""


def issuer(document: IssuerDocument, decisive: frozenset[str]) -> Issuer:
    """`decisive`: as in `Claims`."""
    return Issuer(
        name=document.name,
        issuer=document.issuer,
        jwks_url="" if document.asap else document.key_set_url(),
        audiences=document.audiences,
        algorithms=frozenset(document.algorithms),
        types=STRICT_TYPE if document.strict_type else _ANY_TYPE,
        clients=document.clients,
        claims=_claims(document, decisive),
        cnf=document.cnf,
        proofs=_proofs(document.dpop or DpopDocument()),
        introspection=_introspection(document, document.introspection) if document.introspection else None,
        asap=_asap(document.asap) if document.asap else None,
        gitlab=_gitlab(document.gitlab) if document.gitlab else None,
        leeway=seconds(document.leeway),
        max_token_age=min(seconds(document.max_token_age), _HOUR) if document.asap else seconds(document.max_token_age),
        jwks_refresh=seconds(document.jwks_refresh),
        jwks_cooldown=seconds(document.jwks_cooldown),
        jwks_max_stale=seconds(document.jwks_max_stale),
    )


def _asap(document: AsapDocument) -> Asap:
    return Asap(
        repositories=tuple(f"{url.rstrip('/')}/" for url in document.repositories),
        roles=document.roles,
        other_subjects=document.other_subjects,
        replays=document.replays == "accept",
    )


def _gitlab(document: GitlabDocument) -> Gitlab:
    return Gitlab(document.applications, document.jobs, _rights(document.rights) if document.rights else None)


def _rights(document: GitlabRightsDocument) -> ProjectRights:
    return ProjectRights(
        projects={path: each.roles or (f"gitlab:{path}",) for path, each in document.projects.items()},
        levels={action: _LEVELS[level] for action, level in document.levels},
        visible={"internal": frozenset(document.internal), "public": frozenset(document.public)},
        stale=seconds(document.stale),
        catalogue=document.catalogue,
    )


def _proofs(document: DpopDocument) -> Proofs:
    return Proofs(frozenset(document.algorithms), seconds(document.max_age), document.nonce)


def _introspection(issuer: IssuerDocument, document: IntrospectionDocument) -> Introspection:
    return Introspection(
        url=issuer.introspection_url(),
        client_id=document.client_id,
        client_secret=document.client_secret,
        opaque=document.opaque,
        lightweight=document.lightweight,
        cache=seconds(document.cache),
    )


def ensure_one_is_asked(documents: Sequence[IssuerDocument], diagnostics: Diagnostics) -> None:
    """A token that says nothing would be shown to each of several."""
    asked = [(index, each) for index, each in enumerate(documents) if each.introspection and each.introspection.opaque]
    for index, each in asked[1:]:
        what = f"opaque tokens are those of {shown(asked[0][1].name)} already, and {shown(each.name)} wants them too"
        hint = "let one issuer have opaque: true: a token that is no JWT does not say whose it is"
        diagnostics.report(("issuers", index, "introspection", "opaque"), "defined_twice", what, hint)


def _claims(document: IssuerDocument, decisive: frozenset[str]) -> Claims:
    claims = document.claims
    return Claims(
        roles=_role_paths(document) if claims.roles is None else _paths(claims.roles),
        scopes=_paths(claims.scopes),
        groups=_GITLAB_GROUPS if document.gitlab and "groups" not in claims.model_fields_set else _paths(claims.groups),
        keep={name: claim_path(name) for name in claims.keep},
        decisive=decisive,
    )


def _role_paths(document: IssuerDocument) -> tuple[ClaimPath, ...]:
    """Where Keycloak has them. A GitLab writes none."""
    if document.gitlab:
        return (("roles",),)
    client = document.roles_client
    return (*Claims().roles, ("resource_access", client, "roles")) if client else Claims().roles


def _paths(names: Sequence[ClaimName]) -> tuple[ClaimPath, ...]:
    return tuple(map(claim_path, names))
