"""The shape of a file of policy tests, checked by pydantic."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from ext_authz.decision import Reason
from ext_authz.policy.documents.base import Duration, HeaderName, Name, Part, Text
from ext_authz.policy.faults import did_you_mean, shown
from ext_authz.policytool.answer import GRPC_CODES

NOBODY = "none"

_Grpc = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.]*/[A-Za-z_][A-Za-z0-9_]*$")]
_State = Literal["up", "down"]


def _grpc_code(name: str) -> str:
    if name not in GRPC_CODES:
        raise ValueError(f"{shown(name)} is no gRPC code: {did_you_mean(name, GRPC_CODES) or 'see grpc.io/docs'}")
    return name


def _in_utc(time: datetime) -> datetime:
    return time if time.tzinfo else time.replace(tzinfo=UTC)


class IdentityDocument(Part):
    """Who asks: a few words about the caller, or the whole payload of a token."""

    issuer: Name | None = Field(default=None, description="The policy's short name of the issuer. Default: its first.")
    user: Text = Field(default="somebody", description="The claim sub.")
    client: Text | None = Field(default=None, description="The claim azp. Default: one that the issuer's policy takes.")
    roles: tuple[Text, ...] = Field(default=(), description="Put where the issuer's tokens hold roles.")
    scopes: tuple[Text, ...] = Field(default=(), description="Put where the issuer's tokens hold scopes.")
    groups: tuple[Text, ...] = Field(default=(), description="Put where the issuer's tokens hold groups.")
    claims: dict[str, Any] = Field(default={}, description="Any other claims, by dotted path.")
    token: dict[str, Any] | None = Field(
        default=None,
        description="Instead of all else: the payload of a token, decoded. Its times count: see given.time.",
    )

    @model_validator(mode="after")
    def _said_once(self) -> Self:
        if self.token is not None and len(self.model_fields_set) > 1:
            raise ValueError("token is the whole payload: nothing stands beside it")
        return self


class RequestDocument(Part):
    """What is asked, as Envoy sees it."""

    method: Text | None = Field(default=None, description="Default: GET; with grpc always POST.")
    path: Annotated[str, Field(min_length=1)] | None = Field(default=None, description="With or without ?query.")
    grpc: _Grpc | None = Field(default=None, description="package.Service/Method, instead of method and path.")
    host: str = Field(default="models.example", description="The Host header, or :authority.")
    headers: dict[HeaderName, str] = Field(default={}, description="By lower-case name.")
    query: str | None = Field(default=None, description="Instead of ?query in the path.")
    model: str | None = Field(default=None, description="With grpc: model_name in the message.")
    version: str | None = Field(default=None, description="With grpc: model_version in the message.")
    source: str = Field(default="192.0.2.1", description="Address of the TCP peer.")

    @model_validator(mode="after")
    def _one_target(self) -> Self:
        if (self.path is None) == (self.grpc is None):
            raise ValueError("write either path or grpc")
        if self.grpc is None and (self.model is not None or self.version is not None):
            raise ValueError("model and version go with grpc: without it the path names them")
        if self.grpc is not None and self.method is not None:
            raise ValueError("a gRPC call has no method of its own: leave it out")
        return self


class GivenDocument(Part):
    """What was before the request."""

    time: Annotated[datetime, AfterValidator(_in_utc)] | None = Field(
        default=None, description="When it is. Default: 2026-01-01T12:00:00Z, or the iat of a whole token."
    )
    revoked: tuple[Literal["token", "session", "user", "client", "issuer"], ...] = Field(
        default=(), description="What of the caller was revoked just now."
    )
    used: dict[Name, Annotated[int, Field(ge=0, le=1_000_000)]] = Field(
        default={}, description="How much of which limit the caller used already."
    )
    redis: _State | None = Field(default=None, description="Whether Redis answers.")
    postgres: _State | None = Field(
        default=None, description="down: neither Postgres nor what Redis holds of it can tell what is revoked."
    )
    jwks: _State | None = Field(default=None, description="Whether the keys of issuers can be had.")


class LimitExpectation(Part):
    """What the caller is told about one limit."""

    limit: int | None = Field(default=None, description="Of how many.")
    window: int | None = Field(default=None, description="In how many seconds.")
    remaining: int | None = Field(default=None, description="How many are left after this request.")
    reset: int | None = Field(default=None, description="In how many seconds all are back.")


class ExpectDocument(Part):
    """What must come of it; what is not said may be anything."""

    decision: Literal["allow", "deny"] | None = Field(default=None)
    reason: Reason | None = Field(default=None, description="Why, in one word.", examples=["forbidden"])
    code: str | None = Field(default=None, description="The cause, for machines.", examples=["model_forbidden"])
    route: str | None = Field(default=None, description="Name of the route that applied; empty: none did.")
    model: str | None = Field(default=None, description="The model that was decided about.")
    variant: str | None = Field(default=None, description="The variant of an experiment.")
    limits: dict[Name, LimitExpectation] = Field(default={}, description="By name of the limit.")
    headers: dict[HeaderName, str | None] = Field(
        default={},
        description="Of the answer to the caller and, when allowed, of the request to the model; null: not there.",
    )
    status: int | None = Field(default=None, description="HTTP status of a refusal.", examples=[403])
    grpc: Annotated[str, AfterValidator(_grpc_code)] | None = Field(
        default=None, description="Name of the gRPC code.", examples=["PERMISSION_DENIED"]
    )
    retry_after: int | None = Field(default=None, description="Seconds that a refused caller is told to wait.")

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("expect something: at least a decision")
        return self


class StepDocument(Part):
    """What comes next, with the counters as the steps before left them."""

    after: Duration = Field(default="0s", description="So much time passes first.")
    identity: Name | IdentityDocument | None = Field(
        default=None, description="Default: the same caller, with a new token."
    )
    request: RequestDocument | None = Field(default=None, description="Default: the same request again.")
    given: GivenDocument = Field(default=GivenDocument(), description="What changed before it.")
    repeat: Annotated[int, Field(ge=1, le=100_000)] = Field(
        default=1, description="How often; the last answer is looked at."
    )
    expect: ExpectDocument


class CaseDocument(Part):
    """One test: a caller, a request, what must come of it."""

    name: Annotated[str, Field(min_length=1, max_length=200)]
    identity: Name | IdentityDocument = Field(
        description="none, the name of one of identities, or who it is.", examples=["none", {"roles": ["infer"]}]
    )
    request: RequestDocument
    given: GivenDocument = Field(default=GivenDocument())
    repeat: Annotated[int, Field(ge=1, le=100_000)] = Field(
        default=1, description="How often; the last answer is looked at."
    )
    expect: ExpectDocument
    then: tuple[StepDocument, ...] = Field(default=(), description="What comes next.")

    def steps(self) -> tuple[StepDocument, ...]:
        """The request of the case and what follows it."""
        first = StepDocument(
            after="0s",
            identity=self.identity,
            request=self.request,
            given=self.given,
            repeat=self.repeat,
            expect=self.expect,
        )
        return (first, *self.then)


class CasesDocument(Part):
    """One file of tests."""

    policy: str | None = Field(
        default=None, description="The policy, relative to this file.", examples=["../policy.yaml"]
    )
    environment: dict[str, str] = Field(default={}, description="What ${NAME} in the policy stands for.")
    identities: dict[Name, IdentityDocument] = Field(default={}, description="Callers that several tests name.")
    tests: tuple[CaseDocument, ...] = Field(min_length=1)
