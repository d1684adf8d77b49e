"""`tokens:` - API tokens that Tollgate itself issues, and the console where people manage them."""

from __future__ import annotations

from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from ext_authz.policy.documents.base import LOOPBACK, Duration, HttpUrl, Part, Text, at_most
from ext_authz.policy.documents.models import PermissionDocument
from ext_authz.policy.names import CONSOLE


class TokensDocument(Part):
    """API tokens for scripts and services. People make them in the console; no token may do more than its owner."""

    issuer: HttpUrl | None = Field(default=None, examples=["https://models.example.com/tollgate"])
    """The claim iss of these tokens, and where the console is reached. Default: /tollgate below resource.url. Never
    change it once there are tokens."""
    jwks_url: HttpUrl | None = Field(default=None, examples=["http://127.0.0.1:9010/tollgate/jwks"])
    """Where authorizers fetch the console's keys. Default: {issuer}/jwks."""
    plain_http: bool = False
    """Fetch keys over http from another host than loopback: only where something else protects the connection, such as
    a mesh."""
    audiences: frozenset[Text] = Field(min_length=1, examples=[["triton-gateway"]])
    """The claim aud of these tokens."""
    max_lifetime: Annotated[Duration, at_most("365d", "a token that nobody renews is one that nobody misses")] = "90d"
    """The longest lifetime of a token, at most 365d."""
    per_owner: int = Field(default=50, ge=1, le=1000)
    """How many tokens an owner may have at a time; 50 times as many may be made and renewed in 24 hours."""
    administrators: PermissionDocument | None = Field(default=None, examples=[{"role": "tollgate-admin"}])
    """Who manages the tokens of everybody, and revokes. Default: nobody."""

    @model_validator(mode="after")
    def _issuer_is_the_console(self) -> Self:
        if self.issuer and not urlsplit(self.issuer).path.endswith(f"/{CONSOLE}"):
            raise ValueError(f"the issuer is the address of the console, which ends with /{CONSOLE}")
        return self

    @model_validator(mode="after")
    def _keys_over_https(self) -> Self:
        url = urlsplit(self.jwks_url or "")
        if url.scheme == "http" and not self.plain_http and url.hostname not in LOOPBACK:
            raise ValueError("keys fetched over http can be replaced on the way: use https, or set plain_http: true")
        return self
