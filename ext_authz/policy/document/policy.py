"""A whole `policy.yaml`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from ext_authz.policy.document.base import Lasting, Name, Part
from ext_authz.policy.document.experiments import ExperimentDocument
from ext_authz.policy.document.failure import ExplainDocument, FailureDocument, ResponsesDocument
from ext_authz.policy.document.issuers import IssuerDocument
from ext_authz.policy.document.limits import ClientAddressDocument, FloodDocument, LimitDocument, PlanDocument
from ext_authz.policy.document.models import ModelDocument, ModelName
from ext_authz.policy.document.routes import RouteDocument
from ext_authz.policy.model_path import Shape


class PolicyDocument(Part):
    """Who may do what with which model, and how often. What is not said is denied."""

    version: Literal[1] = Field(description="Of this language.")
    realm: Annotated[
        str,
        StringConstraints(pattern=r"^[A-Za-z0-9 ._-]{1,64}$"),
        Shape("letters, digits, blanks, ., _ and -, at most 64"),
    ] = Field(default="tollgate", description="The realm that challenges name (WWW-Authenticate).")
    issuers: tuple[IssuerDocument, ...] = Field(description="Whose tokens are believed.", min_length=1)
    plans: dict[Name, PlanDocument] = Field(
        default={},
        description="Kinds of callers that limits tell apart. The first that applies wins; else it is default.",
    )
    limits: dict[Name, LimitDocument] = Field(
        default={}, description="How often, by name; routes say which count where."
    )
    flood: FloodDocument | None = Field(
        default=None, description="How often an address may be refused before it is known."
    )
    client_address: ClientAddressDocument = Field(
        default=ClientAddressDocument(), description="Which address is the client's."
    )
    models: dict[ModelName, ModelDocument] = Field(
        default={},
        description="By name or pattern. A name goes before patterns, the pattern with most letters before others.",
    )
    routes: tuple[RouteDocument, ...] = Field(description="What is served; all else is refused.", min_length=1)
    max_duration: Lasting = Field(
        default="10m",
        description="How long an allowed call may last, streams above all: they are judged once, when they open. "
        "None outlives its token either.",
        examples=["5m"],
    )
    experiments: dict[Name, ExperimentDocument] = Field(default={}, description="Models with several variants.")
    failure: FailureDocument = Field(
        default=FailureDocument(), description="What happens while a dependency does not answer."
    )
    responses: ResponsesDocument = Field(default=ResponsesDocument(), description="What callers are told.")
    explain: ExplainDocument = Field(default=ExplainDocument(), description="Explaining decisions afterwards.")
