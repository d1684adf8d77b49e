"""The shape of `policy.yaml`, checked by pydantic, one file per subject; `compile.py` makes `model.py` of it.

The JSON Schema (`schema.py`) and the reference are generated from the fields and their docstrings.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from ext_authz.policy.documents.base import Duration, Lasting, Name, Part, Shape, Text
from ext_authz.policy.documents.issuers import IssuerDocument
from ext_authz.policy.documents.limits import (
    BillingDay,
    ClientAddressDocument,
    FloodDocument,
    LimitDocument,
    PlanDocument,
)
from ext_authz.policy.documents.models import ExperimentDocument, ModelDocument, ModelName
from ext_authz.policy.documents.routes import FailureDocument, RouteDocument
from ext_authz.policy.documents.tokens import TokensDocument
from ext_authz.policy.documents.web import CorsDocument, ResourceDocument


class ResponsesDocument(Part):
    """The content of responses."""

    problem_base: Annotated[
        str,
        StringConstraints(pattern=r"^[a-z][a-z0-9+.-]*:[^\s]*$"),
        Shape("the beginning of a URI, such as https://errors.example/"),
    ] = "urn:tollgate:problem:"
    """The prefix of problem types (RFC 9457)."""
    hints: bool = True
    """Say in a refusal what would be accepted."""
    ratelimit_headers: bool = True
    """Send RateLimit and RateLimit-Policy."""
    decision_header: bool = True
    """Send X-Decision-Id."""


class ExplainDocument(Part):
    """Explaining decisions later."""

    keep: Duration = "1h"
    """How long a decision can be decided again by its id; 0s: no record of decisions is kept."""
    usernames: bool = False
    """Keep user names (preferred_username) in the ledger, so that tollgate decisions and tollgate revoke find a user by
    name."""


class PolicyDocument(Part):
    """Who may do what with which model, and how often. What is not granted is denied."""

    version: Literal[1]
    """The version of this language."""
    realm: Annotated[
        str,
        StringConstraints(pattern=r"^[A-Za-z0-9 ._-]{1,64}$"),
        Shape("letters, digits, blanks, ., _ and -, at most 64"),
    ] = "tollgate"
    """The realm in WWW-Authenticate."""
    resource: ResourceDocument | None = None
    """What everyone may read about the models as a whole."""
    cors: CorsDocument | None = None
    """Which web pages may call the models. Default: none."""
    issuers: tuple[IssuerDocument, ...] = Field(min_length=1)
    """The token issuers that are trusted."""
    tokens: TokensDocument | None = None
    """API tokens that people make in the console. Default: none."""
    plans: dict[Name, PlanDocument] = Field(default={})
    """Kinds of callers with rates of their own. The first that applies wins; otherwise it is default."""
    limits: dict[Name, LimitDocument] = Field(default={})
    """Rate limits by name; routes refer to them."""
    billing_days: dict[Name, dict[Text, BillingDay]] = Field(
        default={}, examples=[{"main": {"shop": 15, "service:nightly": 31}}]
    )
    """By issuer and client: the day of the month on which a client's months begin in limits with an anchor; in shorter
    months the last. Of API tokens the client is their owner. Default: 1."""
    over_budget: Literal["allow", "refuse"] = "allow"
    """What happens to calls of clients whose billing account has used up a budget that stops."""
    flood: FloodDocument | None = None
    """How often an unauthenticated address may be refused."""
    client_address: ClientAddressDocument = ClientAddressDocument()
    """How the address of the client is determined."""
    models: dict[ModelName, ModelDocument] = Field(default={})
    """By name or pattern. A name takes precedence over patterns, a longer pattern over a shorter one."""
    routes: tuple[RouteDocument, ...] = Field(min_length=1)
    """What is served; everything else is refused."""
    max_duration: Lasting = Field(default="10m", examples=["5m"])
    """How long an allowed call may last, above all a stream, which is checked once, when it opens. No call outlives its
    token either."""
    experiments: dict[Name, ExperimentDocument] = Field(default={})
    """Models with several variants."""
    failure: FailureDocument = FailureDocument()
    """What happens while a dependency does not answer."""
    responses: ResponsesDocument = ResponsesDocument()
    """The content of responses."""
    explain: ExplainDocument = ExplainDocument()
    """Explaining decisions later."""
