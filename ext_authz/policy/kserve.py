"""KServe's v2 API as Triton serves it, and its v1: what a call does, to which model, and which right it requires.

One rule of a policy covers both protocols of v2 because both are classified into the same operations. What is not in
the tables is not an operation (None). Triton answers spellings that the tables refuse (`versions/01`), so a path
that begins like its API and is no operation must be refused, never allowed by a rule that only matches paths.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from enum import StrEnum

from msgspec import Struct

from ext_authz.policy.names import MODEL, VERSION


class Kind(StrEnum):
    """What a call does."""

    INFER = "infer"
    STREAM = "stream"
    GENERATE = "generate"
    METADATA = "metadata"
    HEALTH = "health"
    REPOSITORY = "repository"
    ADMIN = "admin"


class Right(StrEnum):
    """What a caller must be allowed to do with the models that the call can reach."""

    CALL = "call"
    SEE = "see"
    ADMINISTER = "administer"


class ModelScope(StrEnum):
    """Which models a call can reach."""

    NONE = "none"
    ONE = "one"
    """The call names it: in the path, or in the gRPC message."""
    ALL = "all"
    """Any model (a gRPC stream names one per message), so the right is required on all of them."""


class Operation(Struct, frozen=True):
    """One call of the API."""

    kind: Kind
    right: Right
    scope: ModelScope
    """What the call can reach: no model, the one it names, or any."""
    model: str = ""
    version: str = ""
    """Empty: Triton chooses."""
    model_from_message: bool = False
    """Scope ONE, and the name is in the gRPC message; without one it may reach every model (ModelStatistics)."""
    by_path: bool = False
    """Of KServe v1, which Triton does not serve: for routes with a path only, not for those with an operation."""


_NONE, _ONE, _ALL = ModelScope.NONE, ModelScope.ONE, ModelScope.ALL
_CALL, _SEE, _ADMINISTER = Right.CALL, Right.SEE, Right.ADMINISTER

# - An index or statistics of everything name every model, and an authorizer cannot filter a response: they require the
#   right to see all of them. Of the index over REST, callers get one of their own (`phases/permission.py`).
# - Tracing, logging and shared memory are of the whole server, whatever model the path names: scope ALL.
_REST: tuple[tuple[str, str, Kind, Right, ModelScope], ...] = (
    ("GET", "/v2", Kind.METADATA, _SEE, _NONE),
    ("GET", "/v2/health/live", Kind.HEALTH, _SEE, _NONE),
    ("GET", "/v2/health/ready", Kind.HEALTH, _SEE, _NONE),
    ("GET", "/v2/models/{model}[/versions/{version}]", Kind.METADATA, _SEE, _ONE),
    ("GET", "/v2/models/{model}[/versions/{version}]/config", Kind.METADATA, _SEE, _ONE),
    ("GET", "/v2/models/{model}[/versions/{version}]/stats", Kind.METADATA, _SEE, _ONE),
    ("GET", "/v2/models/stats", Kind.METADATA, _SEE, _ALL),
    ("GET", "/v2/models/{model}[/versions/{version}]/ready", Kind.HEALTH, _SEE, _ONE),
    ("POST", "/v2/models/{model}[/versions/{version}]/infer", Kind.INFER, _CALL, _ONE),
    ("POST", "/v2/models/{model}[/versions/{version}]/generate", Kind.GENERATE, _CALL, _ONE),
    ("POST", "/v2/models/{model}[/versions/{version}]/generate_stream", Kind.GENERATE, _CALL, _ONE),
    ("POST", "/v2/repository/index", Kind.REPOSITORY, _SEE, _ALL),
    ("POST", "/v2/repository/models/{model}/load", Kind.REPOSITORY, _ADMINISTER, _ONE),
    ("POST", "/v2/repository/models/{model}/unload", Kind.REPOSITORY, _ADMINISTER, _ONE),
    ("GET", "/v2/models/{model}/trace/setting", Kind.ADMIN, _ADMINISTER, _ALL),
    ("POST", "/v2/models/{model}/trace/setting", Kind.ADMIN, _ADMINISTER, _ALL),
    ("GET", "/v2/trace/setting", Kind.ADMIN, _ADMINISTER, _ALL),
    ("POST", "/v2/trace/setting", Kind.ADMIN, _ADMINISTER, _ALL),
    ("GET", "/v2/logging", Kind.ADMIN, _ADMINISTER, _ALL),
    ("POST", "/v2/logging", Kind.ADMIN, _ADMINISTER, _ALL),
    ("GET", "/v2/systemsharedmemory[/region/{region}]/status", Kind.ADMIN, _ADMINISTER, _ALL),
    ("POST", "/v2/systemsharedmemory[/region/{region}]/register", Kind.ADMIN, _ADMINISTER, _ALL),
    ("POST", "/v2/systemsharedmemory[/region/{region}]/unregister", Kind.ADMIN, _ADMINISTER, _ALL),
    ("GET", "/v2/cudasharedmemory[/region/{region}]/status", Kind.ADMIN, _ADMINISTER, _ALL),
    ("POST", "/v2/cudasharedmemory[/region/{region}]/register", Kind.ADMIN, _ADMINISTER, _ALL),
    ("POST", "/v2/cudasharedmemory[/region/{region}]/unregister", Kind.ADMIN, _ADMINISTER, _ALL),
)

_V1: tuple[tuple[str, str, Kind, Right, ModelScope], ...] = (
    ("GET", "/v1/models", Kind.METADATA, _SEE, _ALL),
    ("GET", "/v1/models/{model}", Kind.HEALTH, _SEE, _ONE),
    ("POST", "/v1/models/{model}:predict", Kind.INFER, _CALL, _ONE),
    ("POST", "/v1/models/{model}:explain", Kind.INFER, _CALL, _ONE),
)

# Scope ONE: the message names the model, in `naming_fields`. A stream names one per message and is checked once, so it
# can reach any.
_GRPC: tuple[tuple[str, Kind, Right, ModelScope], ...] = (
    ("/inference.GRPCInferenceService/ServerMetadata", Kind.METADATA, _SEE, _NONE),
    ("/inference.GRPCInferenceService/ServerLive", Kind.HEALTH, _SEE, _NONE),
    ("/inference.GRPCInferenceService/ServerReady", Kind.HEALTH, _SEE, _NONE),
    ("/inference.GRPCInferenceService/ModelMetadata", Kind.METADATA, _SEE, _ONE),
    ("/inference.GRPCInferenceService/ModelConfig", Kind.METADATA, _SEE, _ONE),
    ("/inference.GRPCInferenceService/ModelStatistics", Kind.METADATA, _SEE, _ONE),
    ("/inference.GRPCInferenceService/ModelReady", Kind.HEALTH, _SEE, _ONE),
    ("/inference.GRPCInferenceService/ModelInfer", Kind.INFER, _CALL, _ONE),
    ("/inference.GRPCInferenceService/ModelStreamInfer", Kind.STREAM, _CALL, _ALL),
    ("/inference.GRPCInferenceService/RepositoryIndex", Kind.REPOSITORY, _SEE, _ALL),
    ("/inference.GRPCInferenceService/RepositoryModelLoad", Kind.REPOSITORY, _ADMINISTER, _ONE),
    ("/inference.GRPCInferenceService/RepositoryModelUnload", Kind.REPOSITORY, _ADMINISTER, _ONE),
    ("/inference.GRPCInferenceService/TraceSetting", Kind.ADMIN, _ADMINISTER, _ALL),
    ("/inference.GRPCInferenceService/LogSettings", Kind.ADMIN, _ADMINISTER, _ALL),
    ("/inference.GRPCInferenceService/SystemSharedMemoryStatus", Kind.ADMIN, _ADMINISTER, _ALL),
    ("/inference.GRPCInferenceService/SystemSharedMemoryRegister", Kind.ADMIN, _ADMINISTER, _ALL),
    ("/inference.GRPCInferenceService/SystemSharedMemoryUnregister", Kind.ADMIN, _ADMINISTER, _ALL),
    ("/inference.GRPCInferenceService/CudaSharedMemoryStatus", Kind.ADMIN, _ADMINISTER, _ALL),
    ("/inference.GRPCInferenceService/CudaSharedMemoryRegister", Kind.ADMIN, _ADMINISTER, _ALL),
    ("/inference.GRPCInferenceService/CudaSharedMemoryUnregister", Kind.ADMIN, _ADMINISTER, _ALL),
    ("/grpc.health.v1.Health/Check", Kind.HEALTH, _SEE, _NONE),
)

_NAMED = re.compile(
    r"(/v[12]/models|/v2/(?:repository/models|(?:system|cuda)sharedmemory/region))"
    rf"/({MODEL})(?:/versions/({VERSION}))?((?:/[a-z_]+)*|:[a-z]+)",
    re.ASCII,
)
_MODEL_AND_VERSION = {1: "model", 2: "version"}
_MODEL_OF_REPOSITORY = {2: "model"}
"""The first field names a repository, which Triton ignores."""
_OPTIONAL = re.compile(r"\[(.*)\]")


def classify(method: str, path: str) -> Operation | None:
    """The operation of this method and canonical path, or None: not part of the API in this spelling.

    HEAD is GET; the rendered Envoy makes it one, because Triton refuses it.
    """
    method = "GET" if method == "HEAD" else method
    fixed = _FIXED.get((method, path))
    if fixed is not None:
        return fixed
    found = _NAMED.fullmatch(path)
    if found is None:
        return None
    where, name, version, rest = found.groups("")
    shape = _SHAPES.get((method, where, version != "", rest))
    if shape is None or "region" in where:
        return shape
    return Operation(shape.kind, shape.right, shape.scope, name, version, by_path=shape.by_path)


def surface() -> Iterator[tuple[str, str]]:
    """Method and path of every call; a path with placeholders is a template, `{model}` and its like."""
    for path, *_ in _GRPC:
        yield "POST", path
    for method, template, *_ in _REST + _V1:
        for path in sorted(_spelled_out(template)):
            yield method, path


def rest_paths(kind: Kind) -> list[str]:
    """Templates of every REST call of a kind: `{name}` is one segment."""
    return sorted({path for _, template, of, *_ in _REST if of is kind for path in _spelled_out(template)})


def rpc_paths(kind: Kind | None = None) -> list[str]:
    """The path of every gRPC call of a kind, or of all kinds."""
    return [path for path, of, *_ in _GRPC if kind in (of, None)]


def naming_fields(path: str) -> Mapping[int, str]:
    """Of a gRPC call with `model_from_message`: number of the field of its message to what it names."""
    return _MODEL_OF_REPOSITORY if "/RepositoryModel" in path else _MODEL_AND_VERSION


def _spelled_out(template: str) -> set[str]:
    return {_OPTIONAL.sub("", template), _OPTIONAL.sub(r"\1", template)}


def _fixed() -> Iterator[tuple[tuple[str, str], Operation]]:
    for path, kind, right, scope in _GRPC:
        yield ("POST", path), Operation(kind, right, scope, model_from_message=scope is ModelScope.ONE)
    for method, template, kind, right, scope in _REST + _V1:
        for path in _spelled_out(template):
            if "{" not in path:
                yield (method, path), Operation(kind, right, scope, by_path=path.startswith("/v1"))


def _shapes() -> Iterator[tuple[tuple[str, str, bool, str], Operation]]:
    for method, template, kind, right, scope in _REST + _V1:
        for path in _spelled_out(template):
            found = _NAMED.fullmatch(path.format(model="m", version="1", region="r"))
            if found is not None and "{" in path:
                where, _, version, rest = found.groups("")
                of_v1 = path.startswith("/v1")
                yield (method, where, version != "", rest), Operation(kind, right, scope, by_path=of_v1)


_FIXED = dict(_fixed())
_SHAPES = dict(_shapes())
