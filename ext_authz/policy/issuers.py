"""The issuers of tokens in a compiled policy: whose tokens are accepted, and where those have what.

Durations are in whole seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from msgspec import Struct
from pydantic import SecretStr

from ext_authz.policy.rights import NOBODY, Permission

OWN_ISSUER = "tollgate"
"""The name of the issuer of our own tokens, in metrics and in the log."""
ClaimPath = tuple[str, ...]
"""The keys that lead to a claim: `("realm_access", "roles")`."""


class Claims(Struct, frozen=True):
    """Where a token has roles, scopes and groups. What several paths lead to is united."""

    roles: tuple[ClaimPath, ...] = (("realm_access", "roles"),)
    """Each an array of names, or one name."""
    scopes: tuple[ClaimPath, ...] = (("scope",),)
    """Each a string of names separated by spaces, or an array of strings."""
    groups: tuple[ClaimPath, ...] = (("groups",),)
    keep: Mapping[str, ClaimPath] = {}
    """By the name in the policy: the content of `Identity.claims`."""
    decisive: frozenset[str] = frozenset()
    """Those of `roles`, `scopes` and `groups` whose absence can give a caller more: a token where they cannot be read
    is refused. Of the others, what cannot be read counts as absent."""


class Proofs(Struct, frozen=True):
    """Which DPoP proofs are accepted (RFC 9449)."""

    algorithms: frozenset[str] = frozenset({"ES256", "ES384", "ES512", "EdDSA", "PS256", "RS256"})
    max_age: int = 60
    """Seconds since its `iat`, without leeway."""
    nonce: bool = False
    """Whether it has to have a nonce of ours (section 9)."""


class Introspection(Struct, frozen=True, eq=False):
    """Asking the issuer about tokens that do not say everything themselves (RFC 7662)."""

    url: str
    client_id: str
    client_secret: SecretStr
    opaque: bool = False
    """Tokens that are no JWT are this issuer's."""
    lightweight: bool = False
    """Keycloak's lightweight access tokens: signed, without audience and roles."""
    cache: int = 10
    """How long an answer is believed."""


class Asap(Struct, frozen=True):
    """A service that signs its own tokens, and whose keys are in a repository by their `kid`."""

    repositories: tuple[str, ...]
    """URLs that end with a slash: the id of a key follows."""
    roles: frozenset[str] = frozenset()
    other_subjects: bool = False
    """Whether `sub` may be another than `iss`."""
    replays: bool = False
    """Whether a token may be used more than once."""


class ProjectRights(Struct, frozen=True):
    """Roles that users have because of projects of a GitLab."""

    projects: Mapping[str, tuple[str, ...]]
    """By path: what the roles of a project begin with."""
    levels: Mapping[str, int]
    """By action: the least access level, as GitLab numbers them."""
    visible: Mapping[str, frozenset[str]]
    """By visibility: what every user may do."""
    stale: int
    """For how long an answer of GitLab gives rights."""
    catalogue: frozenset[str] = frozenset()
    """Groups and projects, by their path, whose projects with topics of SharingHub are in the catalogue."""


class Gitlab(Struct, frozen=True):
    """Whose tokens of a GitLab are accepted."""

    applications: frozenset[str] = frozenset()
    """Of users: `aud`."""
    jobs: frozenset[str] = frozenset()
    """Of CI jobs: projects, and groups with all that is in them, by their path."""
    rights: ProjectRights | None = None


class Issuer(Struct, frozen=True, eq=False):
    """One token issuer, and which of its tokens are accepted."""

    name: str
    """Short name, `[a-z0-9-]{1,32}`; prefixes revocation keys, so it never changes once rows exist."""
    issuer: str
    """`iss`, compared byte by byte."""
    jwks_url: str
    """Empty with `asap`."""
    audiences: frozenset[str]
    """At least one must be in `aud`."""
    algorithms: frozenset[str] = frozenset({"RS256"})
    """Subset of RS256/384/512, PS256/384/512, ES256/384/512, EdDSA."""
    types: frozenset[str] = frozenset({"jwt", "at+jwt", "application/at+jwt"})
    """Values of the header `typ` that are accepted, lower case. RFC 9068 alone would be the last two."""
    clients: frozenset[str] = frozenset()
    """Values of `azp` that are accepted; empty: all."""
    claims: Claims = Claims()
    cnf: Literal["refuse", "ignore", "verify"] = "refuse"
    """A token that is bound to a key is refused, accepted as a bearer token, or accepted with a proof of the key."""
    proofs: Proofs = Proofs()
    introspection: Introspection | None = None
    asap: Asap | None = None
    """Of a service that signs its own tokens; `claims`, `clients`, `cnf` and `introspection` are not used then."""
    gitlab: Gitlab | None = None
    """Of a GitLab; `clients`, `cnf` and `introspection` are not used then."""
    leeway: int = 30
    max_token_age: int = 86_400
    """Longest `exp - iat`."""
    jwks_refresh: int = 300
    """How often the key set is fetched again, so that withdrawn keys stop working."""
    jwks_cooldown: int = 10
    """Shortest time between two fetches that unknown `kid`s cause."""
    jwks_max_stale: int = 3600
    """How long the last good key set is used while the issuer does not answer; then tokens get 503."""


class OwnTokens(Struct, frozen=True, eq=False):
    """API tokens that the console issues."""

    issuer: Issuer
    """As authorizers verify them: ES256, the console's keys."""
    max_lifetime: int
    per_owner: int
    """The most grants that an owner may have at a time."""
    administrators: Permission = NOBODY
