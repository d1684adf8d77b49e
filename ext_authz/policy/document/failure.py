"""`failure:`, `responses:` and `explain:` - what happens while something does not answer, and what callers are told."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from ext_authz.policy.document.base import Duration, Part
from ext_authz.policy.model_path import Shape

_OnFailure = Literal["deny", "local", "allow"]
_WithoutKeys = Literal["deny", "local"]


class FailureDocument(Part):
    """deny: 503. local: go on with what this worker knows, for grace, then deny. allow: go on without."""

    redis: _OnFailure = Field(default="deny", description="While Redis, which settles, does not answer.")
    postgres: _OnFailure = Field(
        default="deny", description="While Postgres does not answer and Redis does not hold every revocation."
    )
    jwks: _WithoutKeys = Field(
        default="deny",
        description="While the keys of an issuer cannot be had and those in hand are older than jwks_max_stale. "
        "Nobody can be let in by a token that cannot be verified, so there is no allow.",
    )
    grace: Duration = Field(default="60s", description="How long local goes on since the dependency was last seen.")
    local_share: Annotated[float, Field(gt=0, le=1)] = Field(
        default=1.0,
        description="Which part of every limit one worker gives out by itself while local.",
        examples=[0.25],
    )


class ResponsesDocument(Part):
    """What callers are told."""

    problem_base: Annotated[
        str,
        StringConstraints(pattern=r"^[a-z][a-z0-9+.-]*:[^\s]*$"),
        Shape("the beginning of a URI, such as https://errors.example/"),
    ] = Field(default="urn:tollgate:problem:", description="What the types of problems (RFC 9457) begin with.")
    hints: bool = Field(default=True, description="Tell what would be right.")
    ratelimit_headers: bool = Field(default=True, description="Send RateLimit and RateLimit-Policy.")
    decision_header: bool = Field(default=True, description="Send X-Decision-Id.")


class ExplainDocument(Part):
    """Explaining decisions afterwards."""

    keep: Duration = Field(default="1h", description="How long a decision can be explained by its id; 0s: not at all.")
