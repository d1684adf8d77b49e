"""`resource:` and `cors:` - what clients are told about the models as a whole, and which web pages may call them."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, StringConstraints, model_validator

from ext_authz.policy.documents.base import Duration, HeaderName, Part, Shape, Text, at_most

_PORT = r"(?::(?:[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]))?"
Origin = Annotated[
    str,
    StringConstraints(pattern=rf"^https?://[A-Za-z0-9._-]+{_PORT}$"),
    Shape(
        "a scheme, a host and a port (1 to 65535) if it is not the scheme's, without a path, such as "
        "https://models.example.com"
    ),
]
_AnyOrigin = Annotated[
    str,
    StringConstraints(pattern=rf"^(?:\*|https?://[a-z0-9._-]+{_PORT})$"),
    Shape("the origin of a page in lower case with a port of 1 to 65535, such as https://app.example.com, or *"),
]
_Page = Annotated[str, StringConstraints(pattern=r"^https?://[^\s\"\\]{1,500}$"), Shape("an address of a page")]


class ResourceDocument(Part):
    """What everyone may read, without a token: protected resource metadata (RFC 9728) and GET /. Refusals with status
    401 and 403 name the address of the metadata."""

    url: Origin = Field(examples=["https://models.example.com"])
    """Where callers reach the models."""
    name: Text | None = Field(default=None, examples=["Models of ACME"])
    """What people call them."""
    documentation: _Page | None = Field(default=None, examples=["https://docs.example.com/models"])
    """A page for developers."""


class CorsDocument(Part):
    """Which web pages may call the models from a browser (CORS). Preflight requests are answered without a token."""

    origins: tuple[_AnyOrigin, ...] = Field(min_length=1, max_length=64, examples=[["https://app.example.com"], ["*"]])
    """The origins of the pages; * for any."""
    headers: frozenset[HeaderName] = Field(
        default=frozenset({"authorization", "content-type"}),
        max_length=64,
        examples=[["authorization", "content-type", "x-experiment"]],
    )
    """The headers that a page may send."""
    exposed_headers: frozenset[HeaderName] = Field(
        default=frozenset({"ratelimit", "ratelimit-policy", "retry-after", "www-authenticate", "x-decision-id"}),
        max_length=64,
        examples=[["x-decision-id"]],
    )
    """The headers of a response that a page may read."""
    max_age: Annotated[Duration, at_most("1d", "browsers keep no preflight longer")] = "10m"
    """How long a browser may keep the response to a preflight request."""
    credentials: bool = Field(default=False, examples=[True])
    """Whether browsers may send cookies. A token in the header authorization does not need it."""

    @model_validator(mode="after")
    def _no_credentials_of_everybody(self) -> Self:
        if self.credentials and "*" in self.origins:
            raise ValueError("credentials must not be sent by pages of any origin: name the origins, or remove it")
        return self
