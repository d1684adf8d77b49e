"""Files of policy tests: their shape, checked by pydantic, and where everything that is wrong with them stands."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal, Self

from msgspec import Struct
from pydantic import AfterValidator, Field, ValidationError, model_validator

from ext_authz.decision import Reason, Request
from ext_authz.edge.request import media_type
from ext_authz.errors import ConfigError
from ext_authz.policy.documents.base import MAX_RATE, Duration, HeaderName, Name, Part, Text
from ext_authz.policy.faults import Fault, Position, Step, did_you_mean, fault_at, shown
from ext_authz.policy.source import Source, read_source
from ext_authz.policy.validation import faults_of
from ext_authz.policytool.callers import IdentityDocument
from ext_authz.policytool.simulator import GRPC_CODES

NOBODY = "none"
GRPC = "application/grpc"
_SUFFIXES = (".yaml", ".yml")

_Grpc = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.]*/[A-Za-z_][A-Za-z0-9_]*$")]
_State = Literal["up", "down"]


def _grpc_code(name: str) -> str:
    if name not in GRPC_CODES:
        raise ValueError(f"{shown(name)} is no gRPC code: {did_you_mean(name, GRPC_CODES) or 'see grpc.io/docs'}")
    return name


def _in_utc(time: datetime) -> datetime:
    return time if time.tzinfo else time.replace(tzinfo=UTC)


class RequestDocument(Part):
    """The request, as Envoy sees it."""

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

    def request(self, authorization: str | None) -> Request:
        """`authorization` stands for the caller; a header of that name comes besides it."""
        path, _, query = (self.path or f"/{self.grpc}").partition("?")
        headers = {"content-type": GRPC} if self.grpc else {}
        if authorization is not None:
            headers["authorization"] = authorization
        headers |= self.headers
        values = [value for value in (authorization, self.headers.get("authorization")) if value is not None]
        return Request(
            method="POST" if self.grpc else self.method or "GET",
            host=self.host,
            path=path,
            query=query if self.query is None else self.query,
            authorization=tuple(part for value in values for part in value.split(",")),
            content_type=media_type(headers.get("content-type", "")),
            headers=headers,
            source=self.source,
            models=() if self.model is None else (self.model,),
            versions=() if self.version is None else (self.version,),
        )


class GivenDocument(Part):
    """What was before the request."""

    time: Annotated[datetime, AfterValidator(_in_utc)] | None = Field(
        default=None, description="When it is. Default: 2026-01-01T12:00:00Z, or the iat of a whole token."
    )
    revoked: tuple[Literal["token", "session", "user", "client", "issuer"], ...] = Field(
        default=(), description="What of the caller was revoked just now."
    )
    used: dict[Name, Annotated[int, Field(ge=0, le=MAX_RATE)]] = Field(
        default={}, description="How much of which limit the caller used already."
    )
    redis: _State | None = Field(default=None, description="Whether Redis is available.")
    postgres: _State | None = Field(
        default=None, description="down: revocations can be read neither from Postgres nor from its copy in Redis."
    )
    jwks: _State | None = Field(default=None, description="Whether the keys of issuers can be had.")


class LimitExpectation(Part):
    """What the response says about one limit."""

    limit: int | None = Field(default=None, description="Of how many.")
    window: int | None = Field(default=None, description="In how many seconds.")
    remaining: int | None = Field(default=None, description="How many are left after this request.")
    reset: int | None = Field(default=None, description="In how many seconds all are back.")


class ExpectDocument(Part):
    """What must come of it; what is left out may be anything."""

    decision: Literal["allow", "deny"] | None = Field(default=None)
    reason: Reason | None = Field(default=None, description="Why, in one word.", examples=["forbidden"])
    code: str | None = Field(default=None, description="The cause, for machines.", examples=["model_forbidden"])
    route: str | None = Field(default=None, description="Name of the route that applied; empty: none did.")
    model: str | None = Field(default=None, description="The model that was decided about.")
    variant: str | None = Field(default=None, description="The variant of an experiment.")
    limits: dict[Name, LimitExpectation] = Field(default={}, description="By name of the limit.")
    headers: dict[HeaderName, str | None] = Field(
        default={},
        description="Of the response to the caller and, when allowed, of the request to the model; null: not there.",
    )
    status: int | None = Field(default=None, description="HTTP status of a refusal.", examples=[403])
    grpc: Annotated[str, AfterValidator(_grpc_code)] | None = Field(
        default=None, description="Name of the gRPC code.", examples=["PERMISSION_DENIED"]
    )
    retry_after: int | None = Field(default=None, description="Seconds after which a refused caller may try again.")

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
        default=1, description="How often; the last response is compared."
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
        default=1, description="How often; the last response is compared."
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
    tests: tuple[CaseDocument, ...] = Field(
        min_length=1,
        examples=[[{"name": "probes", "request": {"path": "/v2/health/live"}, "expect": {"decision": "allow"}}]],
    )


class CaseFile(Struct, frozen=True):
    """One file as it was read."""

    path: Path
    document: CasesDocument
    source: Source

    @property
    def policy(self) -> Path | None:
        """The policy that the file names."""
        return None if self.document.policy is None else self.path.parent / self.document.policy

    def place(self, index: int) -> Position:
        """Where a test stands."""
        return self.source.position(("tests", index))


def read_cases(paths: Iterable[Path]) -> tuple[list[CaseFile], list[Fault]]:
    """Read files, and of directories all that is YAML in them. With faults, no test is run.

    Raises:
        ConfigError: there is nothing to read.
    """
    read = [_read(file) for path in paths for file in _files(path)]
    faults = [fault for found in read if not isinstance(found, CaseFile) for fault in found]
    return [found for found in read if isinstance(found, CaseFile)], faults


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(file for file in path.rglob("*") if file.suffix in _SUFFIXES and file.name[0] != ".")
    if not found:
        raise ConfigError(f"{path}: there are no *.yaml files with tests in this directory")
    return found


def _read(path: Path) -> CaseFile | Sequence[Fault]:
    source, found = read_source(path, {})
    if source is None or found:
        return found
    try:
        document = CasesDocument.model_validate(source.data)
    except ValidationError as wrong:
        return faults_of(wrong, source, CasesDocument)
    return tuple(_unknown_callers(document, source)) or CaseFile(path, document, source)


def _unknown_callers(document: CasesDocument, source: Source) -> Iterator[Fault]:
    """The tests whose identity is a name that the file does not explain."""
    for index, case in enumerate(document.tests):
        for path, name in _named(index, case):
            if name != NOBODY and name not in document.identities:
                known = [NOBODY, *document.identities]
                hint = did_you_mean(name, known) or f"known here: {', '.join(known)}"
                what = f"there is no identity {shown(name)}"
                yield fault_at(source.position(path), path, "unknown_identity", what, hint)


def _named(index: int, case: CaseDocument) -> Iterator[tuple[tuple[Step, ...], str]]:
    if isinstance(case.identity, str):
        yield ("tests", index, "identity"), case.identity
    for number, step in enumerate(case.then):
        if isinstance(step.identity, str):
            yield ("tests", index, "then", number, "identity"), step.identity
