"""From `routes:` and `failure:` to `model.py`, and every two routes that one request could match."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from msgspec.structs import replace

from ext_authz.policy.cel.expressions import Condition
from ext_authz.policy.compile_models import granted
from ext_authz.policy.diagnostics import Diagnostics
from ext_authz.policy.documents.base import seconds
from ext_authz.policy.documents.routes import FailureDocument, RouteDocument
from ext_authz.policy.faults import Fault, Step, did_you_mean, shown
from ext_authz.policy.kserve import Kind, ModelScope, classify, rest_paths, rpc_paths, surface
from ext_authz.policy.model import Failure, LimitRule, OnFailure, Route
from ext_authz.policy.names import Encoding
from ext_authz.policy.reach import is_reached, probes, takers, takes_escapes
from ext_authz.policy.rights import EVERYONE
from ext_authz.policy.routes import OF_V1, AmbiguousRoutes, RouteTable
from ext_authz.policy.source import Source
from ext_authz.policy.templates import is_inside, overlap

_ABOUT_MODELS = frozenset({Kind.INFER, Kind.STREAM, Kind.GENERATE, Kind.REPOSITORY, Kind.ADMIN})
"""Kinds of calls that all require a right on a model."""
_GRPC_METHODS = frozenset({"POST"})
_MAX_NAMED = 3
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
    """Those of which it is known what they match. `otherwise` has the defaults of the policy for all of them."""
    found = {
        index: _route(("routes", index), document, limits, otherwise, diagnostics)
        for index, document in enumerate(documents)
    }
    whole = {index: route for index, route in found.items() if not diagnostics.source.is_partial("routes", index)}
    while ambiguous := _ambiguous(whole.values()):
        _report_ambiguous(ambiguous, whole, diagnostics)
        second = [two for _, two, _ in ambiguous.pairs]
        whole = {index: route for index, route in whole.items() if route not in second}
    table, indices = RouteTable(tuple(whole.values())), {route: index for index, route in whole.items()}
    for index, route in whole.items():
        if not is_reached(route, table):
            _report_unreached(("routes", index), route, table, indices, diagnostics)
        elif route.encoding is not Encoding.STRICT and not takes_escapes(route, table):
            what = f"no path with escapes reaches the route {shown(route.name)}"
            hint = "remove encoding, or write a placeholder other than {model} and {version}, and the same encoding in "
            hint += "routes that differ by headers only"
            diagnostics.report_key(("routes", index, "encoding"), "encoding_unused", what, hint)
    return tuple(whole.values())


def faults_of_removed(source: Source, rest: Source) -> list[Fault]:
    """Of routes that are wrong in themselves: their conditions, and the names of their limits."""
    diagnostics = Diagnostics(source)
    kept = {rest.written(("routes", index)) for index in range(len(_items(rest.data, "routes")))}
    for index, route in enumerate(_items(source.data, "routes")):
        if isinstance(route, dict) and ("routes", index) not in kept:
            when = route.get("when")
            diagnostics.expression(
                Condition.compile, when if isinstance(when, str) else None, ("routes", index, "when")
            )
            for at, name in enumerate(_items(route, "limits")):
                diagnostics.report_undefined(("routes", index, "limits", at), "limit", str(name))
    return diagnostics.faults


def _items(mapping: Mapping[str, object], key: str) -> list[object]:
    found = mapping.get(key)
    return found if isinstance(found, list) else []


def _ambiguous(found: Iterable[Route]) -> AmbiguousRoutes | None:
    try:
        RouteTable(tuple(found))
    except AmbiguousRoutes as ambiguous:
        return ambiguous
    return None


def _route(
    path: tuple[Step, ...],
    document: RouteDocument,
    limits: Mapping[str, LimitRule],
    otherwise: Route,
    diagnostics: Diagnostics,
) -> Route:
    when = diagnostics.expression(Condition.compile, document.when, (*path, "when"))
    _ensure_whole(path, document, when, limits, diagnostics)
    return Route(
        name=document.name,
        path=document.template(),
        methods=frozenset(document.methods or (_GRPC_METHODS if document.grpc else ())),
        encoding=Encoding(document.encoding),
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
        upstream=document.upstream or "",
        keeps_token=document.keep_token,
    )


def _ensure_whole(
    path: tuple[Step, ...],
    document: RouteDocument,
    when: Condition | None,
    limits: Mapping[str, LimitRule],
    diagnostics: Diagnostics,
) -> None:
    """What it names is there, and its parts can hold at the same time."""
    for index, name in enumerate(document.limits):
        if name not in limits:
            diagnostics.report_undefined((*path, "limits", index), "limit", name)
    if document.upstream and _is_about_models(document):
        what = f"the application {document.upstream} serves no model, and this path is about one"
        hint = "remove upstream, or write a path of the application, such as /shop/{rest=**}"
        diagnostics.report_key((*path, "upstream"), "upstream_model", what, hint)
    if document.public:
        _ensure_without_caller(path, document, when, diagnostics)
    if _serves_streams(document):
        _ensure_names_no_model(path, document, when, limits, diagnostics)


def ensure_apart(documents: Sequence[RouteDocument], diagnostics: Diagnostics) -> None:
    """For a policy with `cors`. Envoy has to decide whether pages of other origins may call before the authorizer says
    whether the call is one of an application: by the path, so none that models have may take one of an application."""
    of_models = [path for document in documents if not document.upstream for path in _rest(document)]
    for index, document in enumerate(documents):
        if document.upstream and (taking := [each for each in of_models if _takes(each, document.path or "")]):
            what = f"pages of other origins (cors) could call the application {document.upstream}, because {taking[0]}"
            what += ", which is for models, takes paths of it"
            hint = "write a narrower path for models, or leave out cors"
            diagnostics.report_key(("routes", index, "upstream"), "upstream_cors", what, hint)


def _takes(path: str, of_application: str) -> bool:
    """Unless it is a part of the application's, where the narrower one serves."""
    return overlap(path, of_application) and (is_inside(of_application, path) or not is_inside(path, of_application))


def _rest(document: RouteDocument) -> list[str]:
    if document.operation:
        return rest_paths(Kind(document.operation))
    return [document.path] if document.path else []


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
    names_model = "{model}" in template or template.startswith(OF_V1)
    return names_model or any(call and call.scope is not ModelScope.NONE for call in operations)


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


def _report_ambiguous(ambiguous: AmbiguousRoutes, found: Mapping[int, Route], diagnostics: Diagnostics) -> None:
    paths = {id(route): ("routes", index) for index, route in found.items()}
    for one, two, matched in ambiguous.pairs:
        what = f"routes {one.name!r} and {two.name!r} both match {matched}"
        first = diagnostics.position(paths[id(one)])
        hint = f"{one.name!r} is at {first}: make them differ in host, path, method or headers"
        diagnostics.report(paths[id(two)], "ambiguous_routes", what, hint)


def _report_unreached(
    path: tuple[Step, ...], route: Route, table: RouteTable, indices: Mapping[Route, int], diagnostics: Diagnostics
) -> None:
    if not (probed := list(probes(route, table))):
        what = f"nothing can match the route {shown(route.name)}: no call of KServe has this path and method"
        diagnostics.report(path, "unmatched_route", what, _nearest_call(route))
        return
    others = list(dict.fromkeys(takers(probed, table)))
    at = [(other.name, diagnostics.position(("routes", indices[other]))) for other in others[:_MAX_NAMED]]
    named = [f"{shown(name)} at {position}" for name, position in at] + ["others"] * (len(others) > _MAX_NAMED)
    listed = " and ".join(named) or "another spelling"
    what = f"no call reaches the route {shown(route.name)}: {listed} take{'s' if len(named) == 1 else ''} precedence"
    hint = "remove one, or make this one more specific"
    if route.operation is not None:
        hint = "a path that matches takes precedence over any operation: remove one, or write a narrower path"
    diagnostics.report(path, "shadowed_route", what, hint)


def _nearest_call(route: Route) -> str:
    if route.path.startswith(OF_V1):
        return "write {model} where the path names the model: /v1/models/{model}:predict"
    calls = [(method, path) for method, path in surface() if path.startswith("/v2")]
    if methods := [method for method, path in calls if path == route.path]:
        return f"write methods: [{', '.join(methods)}]"
    near = did_you_mean(route.path, [path for method, path in calls if method in route.methods])
    return near or "write the path of a call, or an operation instead of path and methods"
