"""`routes:` and `failure:` - what is served to whom, and what happens while a dependency does not answer."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints, WithJsonSchema, model_validator

from ext_authz.policy.documents.base import Duration, HeaderName, Lasting, Name, Part, Shape, Text
from ext_authz.policy.documents.models import PermissionDocument
from ext_authz.policy.names import CONSOLE, CONSOLE_SERVICES, RESERVED

Method = Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
MAX_SEGMENTS = 32

_LITERAL = re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9_.~!$&'()*+,=:@-]+", re.ASCII)
_PLACEHOLDER = re.compile(r"\{([a-z_]{1,32})\}", re.ASCII)
_REST = re.compile(r"\{([a-z_]{1,32})=\*\*\}", re.ASCII)
_VERB = re.compile(r"\{([a-z_]{1,32})\}:[A-Za-z0-9_-]{1,32}", re.ASCII)
_ELSEWHERE = re.compile(r"\*|^:\w")
_INSTEAD = tuple(
    (re.compile(form), hint)
    for form, hint in (
        (r"", "write one / between segments"),
        (r"\.\.?", "write the path without dot segments"),
        (r"\*+", "write {{name}} for any one segment, or {{rest=**}} at the end for one or more"),
        (r"\{[a-z_]+\}:[A-Za-z0-9_-]+", "{{name}}:verb must be the last one"),
        (r"[:<\[$]?\{?([A-Za-z_]{1,32})[}>\]]?", "write {{{0}}} for any one segment"),
        (r"\{[a-z_]+=\*\*\}", "it must be the last one"),
        (r".*[{}*].*", "write {{name}}, of lower-case letters and _, as a whole segment, or {{name}}:verb at the end"),
        (r".*\?.*", "a path has no query"),
        (r".*", "write letters, digits and -._~!$&'()+,=:@, or {{name}} for any one segment"),
    )
)
"""What authors write, and what to write in its place."""


def _template(path: str) -> str:
    first, *segments = path.split("/")
    if path.startswith("^"):
        raise ValueError("a path is not a regular expression: write {name} for any one segment")
    if first or not segments:
        raise ValueError(f"a path begins with /: write /{path}")
    if len(segments) > MAX_SEGMENTS:
        raise ValueError(f"a path has at most {MAX_SEGMENTS} segments")
    if segments[0] in (RESERVED, CONSOLE, *CONSOLE_SERVICES):
        raise ValueError(f"paths under /{segments[0]}/ are answered by Tollgate itself: choose another path")
    last = segments.pop() if re.fullmatch(f"|{_REST.pattern}|{_VERB.pattern}", segments[-1]) else ""
    if wrong := [text for text in segments if not _is_segment(text)]:
        raise ValueError(f"{wrong[0]!r} is not a segment of a path: {_instead_of(wrong[0])}")
    names = re.findall(r"\{([a-z_]+)", path)
    if len(set(names)) < len(names):
        raise ValueError("the placeholders of a path must have different names")
    if last in ("{model=**}", "{version=**}"):
        raise ValueError(f"{last} would match several segments: write {last.replace('=**', '')}")
    return path


def _is_segment(text: str) -> bool:
    """Notations for placeholders of other systems are no literals, which they would be by their characters."""
    return bool(_PLACEHOLDER.fullmatch(text) or (_LITERAL.fullmatch(text) and not _ELSEWHERE.search(text)))


def _instead_of(segment: str) -> str:
    found, hint = next((found, hint) for form, hint in _INSTEAD if (found := form.fullmatch(segment)))
    return hint.format(*(name.lower() for name in found.groups()))


def _as_grpc(text: str) -> str:
    service, _, method = text.strip("/").replace("/", ".").rpartition(".")
    return f"{service}/{method or '*'}"


def _as_host(text: str) -> str:
    return re.sub(r"^https?://|[:/].*$", "", text.lower())


_WRITTEN_PATH = r"^(?!.*/:[A-Za-z_])/(?!\.?tollgate(?:/|$))[^*?#%\s]*(?:/\{[a-z_]{1,32}=\*\*\})?$"
"""What of `_template` a pattern can say to editors."""
_Path = Annotated[
    str,
    AfterValidator(_template),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": _WRITTEN_PATH,
            "patternErrorMessage": "write a path such as /v2/models/{model}/infer or /files/{rest=**}",
        }
    ),
]


def _not_of_console(method: str) -> str:
    service = method.partition("/")[0]
    if service in CONSOLE_SERVICES:
        raise ValueError(f"the service {service} is Tollgate's own: it needs no route, only the section tokens")
    return method


def _not_ours(upstream: str) -> str:
    if upstream.startswith(CONSOLE):
        raise ValueError(f"names that begin with {CONSOLE} are Tollgate's own: choose another one")
    return upstream


_GrpcMethod = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_.]*/(?:[A-Za-z_][A-Za-z0-9_]*|\*)$"),
    AfterValidator(_not_of_console),
    Shape("package.Service/Method, or package.Service/* for all methods of a service", _as_grpc),
]
_Host = Annotated[
    str,
    StringConstraints(
        pattern=r"^(?:\*\.)?[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?)*$",
        max_length=253,
    ),
    Shape("a host in lower case without port, or *. and a suffix", _as_host),
]
_Upstream = Annotated[Name, AfterValidator(_not_ours)]
_Operation = Literal["infer", "stream", "generate", "metadata", "health", "repository", "admin"]


_OnFailure = Literal["deny", "local", "allow"]
_WithoutKeys = Literal["deny", "local"]


class FailureDocument(Part):
    """deny: 503. local: decide with the state of this worker, for grace, then deny. allow: decide without."""

    redis: _OnFailure = "deny"
    """While Redis (limits, revocations) does not answer."""
    postgres: _OnFailure = "deny"
    """While Postgres does not answer and Redis does not have all revocations."""
    jwks: _WithoutKeys = "deny"
    """While the keys of an issuer cannot be fetched and the known ones are older than jwks_max_stale. A token that
    cannot be verified is never accepted, so there is no allow."""
    grace: Duration = "60s"
    """How long local lasts since the dependency last answered."""
    local_share: Annotated[float, Field(gt=0, le=1)] = Field(default=1.0, examples=[0.25])
    """Which part of every limit one worker may use by itself while local."""


class RouteDocument(Part):
    """One rule. Exactly one applies to a request: of those that match, the most specific.

    Precedence: an exact host, the longest *.suffix, any host; then a path, segment by segment a literal, {name}:verb,
    {name}, {rest=**}, and operations after all paths, also after {rest=**}; then the route with more headers. A path
    that matches without the right method refuses the call. A route that no call can reach is an error.

    The right to see, call or administer a model is not defined here: it follows from the call, and from `models`.
    """

    name: Name = Field(examples=["infer"])
    """Its name in responses, logs and the ledger."""
    path: _Path | None = Field(default=None, examples=["/v2/models/{model}/infer", "/files/{rest=**}"])
    """Path template. {name} matches one segment; {rest=**}, at the end, one or more; {name}:verb, at the end, one that
    ends with :verb and has no other colon, as in /v1/models/{model}:predict. {model} and {version} name a
    model. Only the most specific path applies, with or without a slash at the end: next to /files/hr/{rest=**} no wider
    path serves /files/hr or /files/hr/."""
    methods: frozenset[Method] | None = Field(default=None, min_length=1, examples=[["POST"]])
    """HTTP methods; required with path. GET serves HEAD too; OPTIONS is answered with the methods if it is not here."""
    encoding: Literal["strict", "opaque", "decoded"] = Field(default="strict", examples=["decoded"])
    """Which escapes (%20) its paths may have. strict: none. opaque and decoded: UTF-8 in upper-case hex, but not of
    letters, digits and -._~, nor of / \\ % ; and controls. The upstream gets the path as it was sent, and the route is
    the same for the path with its escapes and without. Limits by path and request.path in conditions are, with opaque,
    the path as it was sent; with decoded, the decoded one. An encoding that no path can use is an error."""
    grpc: _GrpcMethod | None = Field(
        default=None, examples=["inference.GRPCInferenceService/ModelInfer", "inference.GRPCInferenceService/*"]
    )
    """Instead of path: a gRPC method, or all of a service."""
    operation: _Operation | None = Field(default=None, examples=["infer"])
    """Instead of path: all calls of this kind of the KServe v2 surface, over REST and gRPC."""
    hosts: tuple[_Host, ...] = Field(default=(), max_length=32, examples=[["models.example", "*.models.example"]])
    """Hosts, without port; *.suffix matches every host below the suffix. Empty: any."""
    headers: frozenset[HeaderName] = Field(default=frozenset(), max_length=8, examples=[["x-batch-rows"]])
    """Headers that must be present."""
    public: bool = False
    """Served to everyone without a token; must not reach a model."""
    upstream: _Upstream | None = Field(default=None, examples=["shop"])
    """The application that serves these paths in place of the model server, by a name of your choice: `policy render`
    asks for its address (`--upstream`). Of all cookies it gets and sets only its own, which are called as it is, or by
    its name, a dot and more."""
    keep_token: bool = False
    """With upstream: the application gets the caller's token (Authorization), because it verifies it itself. It can use
    the token as the caller can, for as long as it is good."""
    permission: PermissionDocument | None = Field(
        default=None, examples=[{"any": [{"role": "infer"}, {"group": "research"}]}]
    )
    """Who may use it. Default: every verified caller."""
    roles: frozenset[Text] | None = Field(default=None, min_length=1, examples=[["infer"]])
    """Shorthand for permission: any of these roles."""
    when: Annotated[str, Field(min_length=1)] | None = Field(
        default=None, examples=["identity.claims.tenant == request.headers['x-tenant']"]
    )
    """A condition in CEL over identity, request, model and time, in addition to the permission."""
    limits: tuple[Name, ...] = Field(default=(), max_length=16, examples=[["user-minute"]])
    """The limits that apply here, by name."""
    max_duration: Lasting | None = Field(default=None, examples=["60s"])
    """How long an allowed call may last here, instead of the max_duration of the policy. A stream may go on for so long
    after its token is revoked."""
    failure: FailureDocument | None = Field(default=None, examples=[{"redis": "local"}])
    """What is different here while a dependency does not answer."""

    @model_validator(mode="after")
    def _one_target(self) -> Self:
        if sum(target is not None for target in (self.path, self.grpc, self.operation)) != 1:
            raise ValueError("write exactly one of path, grpc and operation")
        if (self.path is None) != (self.methods is None):
            raise ValueError("methods go with path, and path needs methods")
        if self.path is None and self.encoding != "strict":
            raise ValueError("encoding goes with path: no gRPC method and no call of KServe v2 has escapes")
        if self.path is None and self.upstream is not None:
            raise ValueError("upstream goes with path: gRPC methods and calls of KServe v2 lead to the model server")
        if self.upstream is None and self.keep_token:
            raise ValueError("no model gets a token: remove keep_token, or add upstream")
        return self

    @model_validator(mode="after")
    def _no_contradiction(self) -> Self:
        if self.roles is not None and self.permission is not None:
            raise ValueError("roles is short for permission: remove one of them")
        for what, items in (("limit", self.limits), ("host", self.hosts)):
            if len(set(items)) < len(items):
                raise ValueError(f"a {what} is listed twice: remove one")
        return self

    @model_validator(mode="after")
    def _public_without_caller(self) -> Self:
        if self.public and (self.roles or self.permission or self.limits):
            raise ValueError("a public route has no caller: remove roles, permission and limits")
        return self

    def template(self) -> str:
        """The path; that of a gRPC method, or a template for all of a service. Empty for an operation."""
        if self.grpc is not None:
            return "/" + self.grpc.replace("*", "{method}")
        return self.path or ""
