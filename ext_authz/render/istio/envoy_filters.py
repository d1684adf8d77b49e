"""What Istio has no words for: the same settings as in Envoy's own configuration, merged into the gateway's."""

from __future__ import annotations

from collections.abc import Iterator

from ext_authz.policy.model import Policy
from ext_authz.render import filters
from ext_authz.render.bounds import CONNECTION_BYTES, Bounds, Json, duration, longest
from ext_authz.render.envoy_routes import no_such_path
from ext_authz.render.istio.mesh import NAME, Mesh, manifest
from ext_authz.render.istio.routing import grpc_routes
from ext_authz.render.surface import Surface

_CONNECTIONS = "envoy.filters.network.http_connection_manager"
_MANAGER = "filters.network.http_connection_manager.v3.HttpConnectionManager"


def envoy_filters(policy: Policy, served: Surface, mesh: Mesh, bounds: Bounds) -> Iterator[Json]:
    """In the order of a request."""
    yield _envoy_filter("connections", [*_connections(policy, bounds)], mesh)
    yield _envoy_filter("check", [*_check(policy, served)], mesh)
    yield _envoy_filter("bodies", [*_bodies(served, bounds)], mesh)


def _envoy_filter(what: str, patches: list[Json], mesh: Mesh) -> Json:
    spec = {**mesh.gateway_only(selector="workloadSelector"), "configPatches": patches}
    return manifest("EnvoyFilter", f"{NAME}-{what}", mesh.gateway_namespace, spec)


def _connections(policy: Policy, bounds: Bounds) -> Iterator[Json]:
    yield _patch("LISTENER", {}, "MERGE", {"per_connection_buffer_limit_bytes": CONNECTION_BYTES})
    settings = {
        "early_header_mutation_extensions": [filters.early_header_mutation(policy)],
        # One spelling per path: repaired is what only one of the two reads differently.
        "normalize_path": True,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        "common_http_protocol_options": {
            "headers_with_underscores_action": "REJECT_REQUEST",
            "max_stream_duration": longest(policy, bounds),
        },
        # No address is believed because it looks like one of ours.
        "internal_address_config": filters.NOBODY_IS_INTERNAL,
        "stream_idle_timeout": duration(bounds.request),
        "request_headers_timeout": "10s",
        # Judged when its headers are here: it must not arrive long after.
        "request_timeout": duration(bounds.request),
        "local_reply_config": filters.local_replies(bounds.grpc_bytes),
    }
    yield _patch("NETWORK_FILTER", _in_chain(), "MERGE", filters.named(_CONNECTIONS, _MANAGER, settings))
    yield _patch("HTTP_FILTER", _in_chain(), "INSERT_FIRST", filters.header_mutation())
    yield _patch("HTTP_FILTER", _in_chain(filters.ROUTER), "MERGE", filters.router())
    # A VirtualService cannot name CONNECT, and what has no route is not judged: it would hang.
    yield _patch("HTTP_ROUTE", {}, "INSERT_FIRST", no_such_path({"connect_matcher": {}}))


def _check(policy: Policy, served: Surface) -> Iterator[Json]:
    if served.naming_rpcs:
        yield _patch("HTTP_FILTER", _in_chain(), "INSERT_FIRST", filters.target_reader(served))
    config = filters.named(filters.EXT_AUTHZ, "filters.http.ext_authz.v3.ExtAuthz", filters.check(policy))
    yield _patch("HTTP_FILTER", _in_chain(filters.EXT_AUTHZ), "MERGE", config)


def _bodies(served: Surface, bounds: Bounds) -> Iterator[Json]:
    yield _patch("HTTP_FILTER", _in_chain(filters.ROUTER), "INSERT_BEFORE", filters.buffer(bounds.rest_bytes))
    whole = {"request_body_buffer_limit": bounds.grpc_bytes, "typed_per_filter_config": filters.unbuffered()}
    for name in grpc_routes(served):
        yield _patch("HTTP_ROUTE", _route(name), "MERGE", whole)


def _in_chain(http_filter: str = "") -> Json:
    """The connection manager, or one filter in it."""
    chosen = {"name": _CONNECTIONS, **({"subFilter": {"name": http_filter}} if http_filter else {})}
    return {"listener": {"filterChain": {"filter": chosen}}}


def _route(name: str) -> Json:
    return {"routeConfiguration": {"vhost": {"route": {"name": name}}}}


def _patch(to: str, match: Json, operation: str, value: Json) -> Json:
    patch = {"operation": operation, "value": value}
    return {"applyTo": to, "match": {"context": "GATEWAY", **match}, "patch": patch}
