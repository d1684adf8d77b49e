"""`issuers:` - the token issuers that are trusted."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    TypeAdapter,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticKnownError

from ext_authz.policy.documents.asap import AsapDocument, ensure_service
from ext_authz.policy.documents.base import (
    LOOPBACK,
    ClaimName,
    Duration,
    HttpUrl,
    IssuerName,
    Lasting,
    Name,
    Part,
    Text,
    at_most,
    seconds,
)
from ext_authz.policy.documents.gitlab import GitlabDocument
from ext_authz.policy.faults import shown


def _asymmetric(value: object) -> object:
    if isinstance(value, str) and re.fullmatch("(?i)HS[0-9]+|none", value):
        what = f"tokens with {shown(value)} are never accepted: whoever can verify them, or anyone, can issue them"
        raise ValueError(f"{what}; write what the issuer signs with, most likely RS256")
    return value


Algorithm = Annotated[
    Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"],
    BeforeValidator(_asymmetric),
]

_PROOFS: frozenset[Algorithm] = frozenset({"ES256", "ES384", "ES512", "EdDSA", "PS256", "RS256"})
_HOUR = "1h"
_WITH_ASAP = frozenset(
    {"name", "asap", "issuer", "audiences", "algorithms", "leeway", "max_token_age"}
    | {"jwks_refresh", "jwks_cooldown", "jwks_max_stale"}
)
"""The keys that say something about a service too."""
_NOT_OF_GITLAB = ("asap", "strict_type", "clients", "roles_client", "cnf", "dpop", "introspection")
"""The keys that say something about what its tokens never have."""


_ADDRESS_WITHOUT_ASAP: dict[str, Any] = {
    "if": {"not": {"required": ["asap"]}},
    "then": {"properties": {"issuer": TypeAdapter(HttpUrl).json_schema()}},
}
"""For editors, which know nothing of validators."""


class ClaimsDocument(Part):
    """Where the tokens of an issuer have roles, scopes, groups and other claims."""

    roles: tuple[ClaimName, ...] | None = Field(
        default=None, examples=[["realm_access.roles", "resource_access.triton-gateway.roles"]]
    )
    """Dotted paths to arrays of role names; a caller has the roles of all of them. Default: realm_access.roles and,
    with roles_client, that client's."""
    scopes: tuple[ClaimName, ...] = Field(default=("scope",), examples=[["scope"], ["scp"]])
    """Dotted paths to scopes: text with names separated by spaces, or an array of names."""
    groups: tuple[ClaimName, ...] = Field(default=("groups",), examples=[["groups"]])
    """Dotted paths to arrays of group names."""
    keep: tuple[ClaimName, ...] = Field(
        default=(), examples=[["tenant", "plan"], [r"https://id\.example/plan"]], max_length=32
    )
    """Claims that conditions, limits and plans may use, by their dotted path. Text, numbers, true or false, or a list
    of texts."""


class DpopDocument(Part):
    """Which DPoP proofs (RFC 9449) the tokens of an issuer may be presented with."""

    algorithms: frozenset[Algorithm] = Field(default=_PROOFS, min_length=1, examples=[["ES256", "EdDSA"]])
    """The signature algorithms of proofs."""
    max_age: Annotated[Lasting, at_most("10m", "proofs are made for one request each")] = "60s"
    """How old a proof may be (iat), at most 10m. Redis remembers each used proof for so long and three times the
    leeway."""
    nonce: bool = Field(default=False, examples=[True])
    """Accept only proofs with a nonce of ours, which a refusal names in the header DPoP-Nonce: so no proof can be made
    in advance. Costs callers a second request every two minutes."""


class IntrospectionDocument(Part):
    """Asking the issuer about tokens that do not say everything themselves (RFC 7662): its answer is verified like the
    claims of a token."""

    url: HttpUrl | None = None
    """Where it is asked. Default: as Keycloak has it, {issuer}/protocol/openid-connect/token/introspect."""
    client_id: Text = Field(examples=["triton-gateway"])
    """The client that asks. Keycloak answers only a client that the token is meant for (aud)."""
    client_secret: SecretStr = Field(examples=["${TOLLGATE_INTROSPECTION_SECRET}"])
    """Its secret; from the environment, so that it is in no file."""
    opaque: bool = Field(default=False, examples=[True])
    """Ask about each token that is no JWT. At one issuer only: such a token does not say whose it is, and would be
    shown to the others."""
    lightweight: bool = Field(default=False, examples=[True])
    """Ask about Keycloak's lightweight access tokens, once their signature is verified."""
    cache: Annotated[Lasting, at_most("5m", "a token that its issuer ended would live on")] = "10s"
    """How long an answer is believed, at most 5m, and never beyond the token's exp."""

    @field_validator("client_secret")
    @classmethod
    def _not_empty(cls, secret: SecretStr) -> SecretStr:
        if not secret.get_secret_value():
            raise ValueError("the secret is empty: write a variable that has it, ${TOLLGATE_INTROSPECTION_SECRET}")
        return secret

    @model_validator(mode="after")
    def _for_something(self) -> Self:
        if not (self.opaque or self.lightweight):
            raise ValueError("nothing is asked: write opaque: true, lightweight: true, or both")
        return self


class IssuerDocument(Part):
    """A token issuer, and which of its tokens are accepted."""

    model_config = ConfigDict(json_schema_extra=_ADDRESS_WITHOUT_ASAP)

    name: Name = Field(examples=["demo"])
    """Short name. It is part of every revocation: never change it once there are any."""
    asap: AsapDocument | None = None
    """The issuer is a service that signs its own tokens (ASAP), and this is how they are verified."""
    gitlab: GitlabDocument | None = None
    """The issuer is a GitLab, and these of its users and CI jobs are accepted."""
    issuer: IssuerName = Field(examples=["https://id.example/realms/ml", "${TOLLGATE_ISSUER}"])
    """The claim iss of its tokens, compared byte by byte. With asap the name of the service, such as team/web."""
    jwks_url: HttpUrl | None = None
    """The URL of its keys. Default: as Keycloak has it, {issuer}/protocol/openid-connect/certs; with gitlab
    {issuer}/oauth/discovery/keys."""
    plain_http: bool = False
    """Fetch keys, and ask about tokens, over http from another host than loopback: only where something else protects
    the connection, such as a mesh."""
    audiences: frozenset[Text] = Field(min_length=1, examples=[["triton-gateway"]])
    """At least one of these must be in the claim aud."""
    algorithms: frozenset[Algorithm] = Field(default=frozenset({"RS256"}), min_length=1)
    """The signature algorithms that are accepted."""
    strict_type: bool = False
    """Accept only the type at+jwt (RFC 9068). By default Keycloak writes JWT."""
    clients: frozenset[Text] = Field(default=frozenset(), examples=[["web-app"]])
    """The clients (azp) whose tokens are accepted; empty: all."""
    claims: ClaimsDocument = ClaimsDocument()
    """Where its tokens have roles, scopes and groups."""
    roles_client: Text | None = Field(default=None, examples=["triton-gateway"])
    """Shorthand: roles are realm_access.roles and those of this client in resource_access."""
    cnf: Literal["refuse", "ignore", "verify"] = "refuse"
    """What to do with a token that is bound to a key (cnf): refuse it; ignore the binding and accept it as a bearer
    token; or verify that the caller has the key: by a DPoP proof (jkt) or the client certificate (x5t#S256)."""
    dpop: DpopDocument | None = None
    """With cnf: verify, which proofs are accepted."""
    introspection: IntrospectionDocument | None = None
    """About which tokens the issuer is asked."""
    leeway: Annotated[Duration, at_most("60s", "so much leeway would accept expired tokens")] = "30s"
    """How far the clocks of both sides may differ, at most 60s."""
    max_token_age: Annotated[Duration, at_most("30d", "a token would outlive its revocation")] = Field(default="1d")
    """The longest lifetime of a token, from iat to exp, at most 30d. With asap at most 1h, which is its default."""
    jwks_refresh: Duration = "5m"
    """How often the keys are fetched again, so that a withdrawn key stops working."""
    jwks_cooldown: Duration = "10s"
    """The shortest time between two fetches caused by unknown keys."""
    jwks_max_stale: Duration = "1h"
    """How long known keys are used while the issuer does not answer; then 503."""

    @field_validator("issuer")
    @classmethod
    def _address_or_service(cls, issuer: str, others: ValidationInfo) -> str:
        if "asap" not in others.data:  # it is wrong itself
            return issuer
        if others.data["asap"] is not None:
            ensure_service(issuer)
        elif "://" not in issuer:
            raise PydanticKnownError("string_pattern_mismatch", {"pattern": "^https?://"})
        return issuer

    @model_validator(mode="after")
    def _fits_a_service(self) -> Self:
        if self.asap is None:
            return self
        if others := sorted(self.model_fields_set - _WITH_ASAP):
            raise ValueError(f"{others[0]} says nothing about a service that signs its own tokens (asap): remove it")
        if "EdDSA" in self.algorithms:
            raise ValueError("services (asap) do not sign with EdDSA: write RS256, ES256, PS256, or a longer one")
        if seconds(self.max_token_age) > seconds(_HOUR) and "max_token_age" in self.model_fields_set:
            raise ValueError(f"tokens of services (asap) live for an hour at most: write max_token_age: {_HOUR}")
        return self

    @model_validator(mode="after")
    def _fits_a_gitlab(self) -> Self:
        if self.gitlab and (others := sorted(self.model_fields_set & {*_NOT_OF_GITLAB})):
            raise ValueError(f"{others[0]} says nothing about tokens of a GitLab (gitlab): remove it")
        return self

    @model_validator(mode="after")
    def _keys_over_https(self) -> Self:
        url = urlsplit(self.key_set_url())
        if url.scheme == "http" and not self.plain_http and url.hostname not in LOOPBACK:
            raise ValueError("keys fetched over http can be replaced on the way: use https, or set plain_http: true")
        return self

    @model_validator(mode="after")
    def _asked_over_https(self) -> Self:
        url = urlsplit(self.introspection_url())
        if self.introspection and url.scheme == "http" and not self.plain_http and url.hostname not in LOOPBACK:
            what = "tokens and the secret of a client would be sent over http"
            raise ValueError(f"{what}: use https for introspection.url, or set plain_http: true")
        return self

    @model_validator(mode="after")
    def _proofs_are_verified(self) -> Self:
        if self.dpop is not None and self.cnf != "verify":
            raise ValueError(f"dpop says which proofs are verified, and cnf is {self.cnf}: write cnf: verify")
        return self

    @model_validator(mode="after")
    def _roles_or_shorthand(self) -> Self:
        if self.roles_client is not None and self.claims.roles is not None:
            raise ValueError("roles_client is short for claims.roles: remove one of them")
        return self

    def key_set_url(self) -> str:
        keys = "oauth/discovery/keys" if self.gitlab else "protocol/openid-connect/certs"
        return self.jwks_url or f"{self.issuer.rstrip('/')}/{keys}"

    def introspection_url(self) -> str:
        """Whether or not there is an introspection."""
        named = self.introspection and self.introspection.url
        return named or f"{self.issuer.rstrip('/')}/protocol/openid-connect/token/introspect"
