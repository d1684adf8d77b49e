"""What a policy can say, compiled: the form the request path reads. `load.py` makes it from `policy.yaml`."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct

from ext_authz.limits.limit import Limit


class Issuer(Struct, frozen=True, eq=False):
    """One token issuer and what it takes to be believed. Durations in seconds."""

    name: str
    """Short name, `[a-z0-9-]{1,32}`; prefixes revocation keys, so it never changes once rows exist."""
    issuer: str
    """`iss`, compared byte by byte."""
    jwks_url: str
    audiences: frozenset[str]
    """At least one must be in `aud`."""
    algorithms: frozenset[str] = frozenset({"RS256"})
    """Subset of RS256/384/512, PS256/384/512, ES256/384/512, EdDSA."""
    types: frozenset[str] = frozenset({"jwt", "at+jwt", "application/at+jwt"})
    """Header `typ` values taken, lower case. RFC 9068 alone would be the last two."""
    clients: frozenset[str] = frozenset()
    """`azp` values taken; empty takes all."""
    roles_client: str = ""
    """Client whose `resource_access.<client>.roles` are read besides `realm_access.roles`."""
    leeway: int = 30
    max_token_age: int = 86_400
    """Longest `exp - iat`."""
    jwks_refresh: int = 300
    """How often the key set is fetched again, so that disabled keys disappear."""
    jwks_cooldown: int = 10
    """Shortest time between two fetches that unknown `kid`s cause."""
    jwks_max_stale: int = 3600
    """How long the last good key set serves while the issuer does not answer; then tokens get 503."""


class ModelScope(StrEnum):
    """How a route concerns models."""

    NONE = "none"
    ONE = "one"
    """The request names one model: `{model}` of the path, or `model_name` of the gRPC message."""
    ALL = "all"
    """The call may reach any model (a gRPC stream names one per message), so all of them must be permitted."""


class Route(Struct, frozen=True, eq=False):
    """One rule. Exactly one applies to a request. Compared by object identity, so that it can key caches."""

    name: str
    path: str
    """Template: `/v2/models/{model}/infer`; a gRPC method is its path, `/package.Service/Method`."""
    methods: frozenset[str]
    grpc: bool = False
    """Only gRPC callers; without it only callers that are not."""
    public: bool = False
    """No credential needed, no limit, still in the ledger."""
    roles: frozenset[str] = frozenset()
    """Any of these. Empty means that any verified caller may."""
    model: ModelScope = ModelScope.NONE
    """Which models the caller must be permitted to call, besides `roles`."""
    limits: tuple[Limit, ...] = ()


class Match(Struct, frozen=True, eq=False):
    """The route that applies to one (method, path), and what the placeholders of its template hold."""

    route: Route
    model: str = ""
    version: str = ""


class Policy(Struct, frozen=True, eq=False):
    """One whole, valid policy."""

    hash: str
    """First 16 hex digits of the SHA-256 of the file; in every ledger event."""
    issuers: tuple[Issuer, ...]
    routes: tuple[Route, ...]
    models: dict[str, frozenset[str]]
    """Model name to the roles of which one is needed to call it. A model that is not here may not be called."""
    realm: str = "tollgate"
    """`realm` of WWW-Authenticate."""
    problem_base: str = "urn:tollgate:problem:"
    """Base URI of RFC 9457 problem types."""
