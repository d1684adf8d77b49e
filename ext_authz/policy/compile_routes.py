"""From `routes:` and `failure:` to `model.py`, and every two routes that one request could match."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from ext_authz.policy.cel.expressions import Condition
from ext_authz.policy.compile_models import granted
from ext_authz.policy.diagnostics import Diagnostics
from ext_authz.policy.documents.base import seconds
from ext_authz.policy.documents.routes import FailureDocument, RouteDocument
from ext_authz.policy.faults import Step
from ext_authz.policy.kserve import Kind, ModelScope, classify, rpc_paths
from ext_authz.policy.model import Failure, LimitRule, OnFailure, Route
from ext_authz.policy.rights import EVERYONE
from ext_authz.policy.routes import AmbiguousRoutes, RouteTable

_ABOUT_MODELS = frozenset({Kind.INFER, Kind.STREAM, Kind.GENERATE, Kind.REPOSITORY, Kind.ADMIN})
"""Kinds of calls that all require a right on a model."""
_GRPC_METHODS = frozenset({"POST"})
_OF_ONE_MODEL = frozenset({"model.name", "model.version"})


def failure(document: FailureDocument, otherwise: Failure) -> Failure:
    """The values of the document; the rest as in `otherwise`."""
    values = {name: getattr(document, name) for name in document.model_fields_set}
    return replace(otherwise, **{name: _FAILURE[name](value) for name, value in values.items()})


_FAILURE = {"redis": OnFailure, "postgres": OnFailure, "jwks": OnFailure, "grace": seconds, "local_share": float}


def routes(
    documents: Sequence[RouteDocument],
    limits: Mapping[str, LimitRule],
    otherwise: Route,
    diagnostics: Diagnostics,
) -> tuple[Route, ...]:
    """`otherwise` has the defaults of the policy for all of them."""
    found = tuple(
        _route(("routes", index), document, limits, otherwise, diagnostics) for index, document in enumerate(documents)
    )
    try:
        RouteTable(found)
    except AmbiguousRoutes as ambiguous:
        _report_ambiguous(ambiguous, found, diagnostics)
    return found


def _route(
    path: tuple[Step, ...],
    document: RouteDocument,
    limits: Mapping[str, LimitRule],
    otherwise: Route,
    diagnostics: Diagnostics,
) -> Route:
    for index, name in enumerate(document.limits):
        if name not in limits:
            diagnostics.report_undefined((*path, "limits", index), "limit", name, limits)
    when = diagnostics.expression(Condition.compile, document.when, (*path, "when"))
    if document.public:
        _ensure_without_caller(path, document, when, diagnostics)
    if _serves_streams(document):
        _ensure_names_no_model(path, document, when, limits, diagnostics)
    return Route(
        name=document.name,
        path=document.template(),
        methods=frozenset(document.methods or (_GRPC_METHODS if document.grpc else ())),
        operation=Kind(document.operation) if document.operation else None,
        grpc=document.grpc is not None,
        hosts=document.hosts,
        headers=document.headers,
        public=document.public,
        permission=granted(document.roles, document.permission, EVERYONE),
        when=when,
        limits=tuple(limits[name] for name in document.limits if name in limits),
        failure=failure(document.failure, otherwise.failure) if document.failure else otherwise.failure,
        max_duration=seconds(document.max_duration) if document.max_duration else otherwise.max_duration,
    )


def _ensure_without_caller(
    path: tuple[Step, ...], document: RouteDocument, when: Condition | None, diagnostics: Diagnostics
) -> None:
    if when and any(name.startswith("identity.") for name in when.names):
        what = "a public route has no caller, and its condition reads one"
        diagnostics.report((*path, "when"), "public_identity", what, "remove public, or use the request only")
    if _is_about_models(document):
        what = "a public route must not reach a model, and this one names one"
        hint = "remove public: who may see and call a model is defined in models"
        diagnostics.report_key((*path, "public"), "public_model", what, hint)


def _is_about_models(document: RouteDocument) -> bool:
    if document.operation is not None:
        return document.operation in _ABOUT_MODELS
    template = document.template()
    operations = [classify(method, template) for method in document.methods or _GRPC_METHODS]
    return "{model}" in template or any(call and call.scope is not ModelScope.NONE for call in operations)


def _serves_streams(document: RouteDocument) -> bool:
    if document.grpc is None:
        return document.operation == "stream"
    return any(path.startswith(f"/{document.grpc.removesuffix('*')}") for path in rpc_paths(Kind.STREAM))


def _ensure_names_no_model(
    path: tuple[Step, ...],
    document: RouteDocument,
    when: Condition | None,
    limits: Mapping[str, LimitRule],
    diagnostics: Diagnostics,
) -> None:
    """A stream names a model in each message and is checked once: no rule about one model could be enforced."""
    hint = "write a separate route for streams (operation: stream), without the model"
    if when and when.names & _OF_ONE_MODEL:
        what = "a stream can name any model, and the condition reads one"
        diagnostics.report((*path, "when"), "stream_by_model", what, hint)
    for index, name in enumerate(document.limits):
        rule = limits.get(name)
        if rule and ("model" in rule.key or (rule.cost.expression and rule.cost.expression.names & _OF_ONE_MODEL)):
            what = f"a stream can name any model, and the limit {name} counts by one"
            diagnostics.report((*path, "limits", index), "stream_by_model", what, hint)


def _report_ambiguous(ambiguous: AmbiguousRoutes, found: Sequence[Route], diagnostics: Diagnostics) -> None:
    paths = {id(route): ("routes", index) for index, route in enumerate(found)}
    for one, two, matched in ambiguous.pairs:
        what = f"routes {one.name!r} and {two.name!r} both match {matched}"
        first = diagnostics.position(paths[id(one)])
        hint = f"{one.name!r} is at {first}: make them differ in host, path, method or headers"
        diagnostics.report(paths[id(two)], "ambiguous_routes", what, hint)
