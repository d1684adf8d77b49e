"""The objects of Istio: the gateway's routes to Triton, and EnvoyFilters for the settings that Istio has no field for.

Variants of experiments come first, matched by the header that the authorizer sets. `mesh.py` has the access rules.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ext_authz.errors import ConfigError
from ext_authz.policy.model import Policy
from ext_authz.render import filters
from ext_authz.render.documents import JSON_WANTED, READS, Document, documents
from ext_authz.render.endpoints import (
    CALLS_PER_CONNECTION,
    CHECK_RETRIES,
    CONNECTION_BYTES,
    HTTP2_WINDOWS,
    Json,
    Timeouts,
    duration,
)
from ext_authz.render.envoy import no_such_path, too_large
from ext_authz.render.exposed_paths import LONGEST_PATTERN, OWN, ExposedPaths, exposed_paths
from ext_authz.render.headers import VARIANT
from ext_authz.render.local_replies import local_replies
from ext_authz.render.mesh import (
    NAME,
    Mesh,
    Workload,
    check_policy,
    extension_provider,
    gateway_only_policies,
    manifest,
)

MESH_CONFIG = f"istiod/meshconfig-{NAME}.yaml"
"""In a folder of its own: it goes to Istio's chart, and `kubectl apply -f` of the others must not meet it."""

_GRPC_CALLER = r"application/grpc(\+.*)?"
"""Envoy's own test."""
_CONNECTIONS = "envoy.filters.network.http_connection_manager"
_MANAGER = "filters.network.http_connection_manager.v3.HttpConnectionManager"


def objects(policy: Policy, mesh: Mesh, timeouts: Timeouts = Timeouts()) -> dict[str, Json]:  # noqa: B008 - frozen
    """Path to object, in the order in which they are to be applied: access rules, the check, then the routes.

    Raises:
        ConfigError: it is not clear which variant serves calls that no experiment covers, or a path is too long.
    """
    exposed = exposed_paths(policy)
    _ensure_short(exposed)
    found = [
        *gateway_only_policies(mesh),
        check_policy(mesh),
        *_envoy_filters(policy, exposed, mesh, timeouts),
        *_routing(policy, exposed, mesh, timeouts),
    ]
    named = {f"{one['kind'].lower()}-{one['metadata']['name']}.yaml": one for one in found}
    return {MESH_CONFIG: extension_provider(mesh, timeouts), **named}


def _ensure_short(exposed: ExposedPaths) -> None:
    for pattern in (*exposed.rest, *exposed.rpcs, *exposed.streams):
        if len(pattern) > LONGEST_PATTERN:
            raise ConfigError(
                f"a path is too long for Istio, which takes patterns of {LONGEST_PATTERN} characters at most: "
                f"shorten the path of {pattern[:60]}..."
            )


def _envoy_filters(policy: Policy, exposed: ExposedPaths, mesh: Mesh, timeouts: Timeouts) -> Iterator[Json]:
    """In the order of a request; the same settings as in `envoy.py`."""
    for name, patches in (
        ("connections", _connections(policy, timeouts)),
        ("check", _check(policy, exposed, mesh)),
        ("bodies", _bodies(policy, exposed, timeouts)),
    ):
        # After filters without a priority: where a patch is inserted depends on what is there by then.
        spec = {**mesh.gateway_only(selector="workloadSelector"), "priority": 10, "configPatches": list(patches)}
        yield manifest("EnvoyFilter", f"{NAME}-{name}", mesh.gateway_namespace, spec)


def _connections(policy: Policy, timeouts: Timeouts) -> Iterator[Json]:
    yield _patch("LISTENER", {}, "MERGE", {"per_connection_buffer_limit_bytes": CONNECTION_BYTES})
    settings = {
        "early_header_mutation_extensions": [filters.early_header_mutation(policy)],
        # One spelling per path: two parsers may repair a path differently.
        "normalize_path": True,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        "common_http_protocol_options": {
            "headers_with_underscores_action": "REJECT_REQUEST",
            "max_stream_duration": filters.longest(policy, timeouts),
        },
        "http2_protocol_options": HTTP2_WINDOWS,
        # No address is trusted because it looks like one of ours.
        "internal_address_config": filters.NOBODY_IS_INTERNAL,
        "stream_idle_timeout": duration(timeouts.request),
        "request_headers_timeout": "10s",
        # The check is made when the headers are here: the body must not arrive long after.
        "request_timeout": duration(timeouts.request),
        "local_reply_config": local_replies(policy, timeouts),
    }
    yield _patch("NETWORK_FILTER", _in_chain(), "MERGE", filters.named(_CONNECTIONS, _MANAGER, settings))
    yield _patch("HTTP_FILTER", _in_chain(), "INSERT_FIRST", filters.header_mutation())
    yield _patch("HTTP_FILTER", _in_chain(filters.ROUTER), "MERGE", filters.router())
    # A VirtualService cannot name CONNECT, and a request without a route is not checked: it would hang.
    yield _patch("HTTP_ROUTE", {}, "INSERT_FIRST", _no_tunnel({"connect_matcher": {}}))
    # Istio lets a caller upgrade to a WebSocket: what follows would be bytes for the model that nothing checks.
    upgrade = {"prefix": "/", "headers": [{"name": "upgrade", "present_match": True}]}
    yield _patch("HTTP_ROUTE", {}, "INSERT_FIRST", _no_tunnel(upgrade))


def _no_tunnel(match: Json) -> Json:
    """Not buffered: such a request has no end to wait for."""
    return {**no_such_path(match), "typed_per_filter_config": filters.unbuffered()}


def _check(policy: Policy, exposed: ExposedPaths, mesh: Mesh) -> Iterator[Json]:
    if exposed.naming_rpcs:
        yield _patch("HTTP_FILTER", _in_chain(), "INSERT_FIRST", filters.target_reader(exposed))
    settings = {**filters.check(policy), "grpc_service": {"retry_policy": CHECK_RETRIES}}
    config = filters.named(filters.EXT_AUTHZ, "filters.http.ext_authz.v3.ExtAuthz", settings)
    yield _patch("HTTP_FILTER", _in_chain(filters.EXT_AUTHZ), "MERGE", config)
    # Envoy collects changes of health for a second, and calls an authorizer for so long that failed again at once.
    service = {"cluster": {"service": mesh.host(mesh.authorizer), "portNumber": mesh.authorizer_port}}
    yield _patch("CLUSTER", service, "MERGE", {"common_lb_config": {"update_merge_window": "0s"}})
    for document in documents(policy):
        yield _patch(
            "HTTP_ROUTE", _route_named(_own_name(document)), "MERGE", {"typed_per_filter_config": filters.unchecked()}
        )
    if policy.cors:
        # A corsPolicy of the VirtualService would act behind the check, on requests that carry a token.
        yield _patch("HTTP_FILTER", _in_chain(), "INSERT_FIRST", filters.cors())
        yield _patch("VIRTUAL_HOST", {}, "MERGE", filters.cors_host(policy))


def _bodies(policy: Policy, exposed: ExposedPaths, timeouts: Timeouts) -> Iterator[Json]:
    yield _patch("HTTP_FILTER", _in_chain(filters.ROUTER), "INSERT_BEFORE", filters.buffer(timeouts.rest_bytes))
    yield _patch("HTTP_FILTER", _in_chain(filters.ROUTER), "INSERT_BEFORE", filters.answers(policy))
    yield _patch("HTTP_ROUTE", {}, "INSERT_FIRST", too_large(policy, timeouts))
    whole = {"request_body_buffer_limit": timeouts.grpc_bytes, "typed_per_filter_config": filters.unbuffered()}
    # Streams first, as in the VirtualService.
    kinds = [kind for kind, paths in (("stream", exposed.streams), ("grpc", exposed.rpcs)) if paths]
    for name in (_name(kind, variant) for kind in kinds for variant in (*exposed.variants, "")):
        yield _patch("HTTP_ROUTE", _route_named(name), "MERGE", whole)


def _route_named(name: str) -> Json:
    return {"routeConfiguration": {"vhost": {"route": {"name": name}}}}


def _in_chain(http_filter: str = "") -> Json:
    """The connection manager, or one filter in it."""
    chosen = {"name": _CONNECTIONS, **({"subFilter": {"name": http_filter}} if http_filter else {})}
    return {"listener": {"filterChain": {"filter": chosen}}}


def _patch(to: str, match: Json, operation: str, value: Json) -> Json:
    patch = {"operation": operation, "value": value}
    return {"applyTo": to, "match": {"context": "GATEWAY", **match}, "patch": patch}


def _routing(policy: Policy, exposed: ExposedPaths, mesh: Mesh, timeouts: Timeouts) -> Iterator[Json]:
    hosts = list(mesh.hosts or _hosts(policy))
    if not mesh.bind:
        yield _gateway(hosts, mesh)
    spec = {"hosts": hosts, "gateways": [mesh.bind or NAME], "http": _http(policy, exposed, mesh, timeouts)}
    yield manifest("VirtualService", NAME, mesh.gateway_namespace, spec)
    subsets = [{"name": variant, "labels": {mesh.variant_label: variant}} for variant in exposed.variants]
    yield _destination(mesh.triton, mesh, {}, {}, {"subsets": subsets} if subsets else {})
    checks = {"http1MaxPendingRequests": timeouts.checks, "http2MaxRequests": timeouts.checks}
    pool = {**checks, "maxRequestsPerConnection": CALLS_PER_CONNECTION}
    yield _destination(mesh.authorizer, mesh, pool, {"outlierDetection": _UNREACHABLE}, {})


def _hosts(policy: Policy) -> list[str]:
    """One route for any host makes them all of any."""
    found = sorted({host for route in policy.routes for host in route.hosts or ("*",)})
    return ["*"] if "*" in found else found


def _gateway(hosts: list[str], mesh: Mesh) -> Json:
    server: Json = {"port": {"number": 80, "name": "http", "protocol": "HTTP"}, "hosts": hosts}
    if mesh.tls_secret:
        tls = {"mode": "SIMPLE", "credentialName": mesh.tls_secret, "minProtocolVersion": "TLSV1_2"}
        server = {"port": {"number": 443, "name": "https", "protocol": "HTTPS"}, "tls": tls, "hosts": hosts}
    spec = {"selector": dict(mesh.gateway_labels), "servers": [server]}
    return manifest("Gateway", NAME, mesh.gateway_namespace, spec)


def _http(policy: Policy, exposed: ExposedPaths, mesh: Mesh, timeouts: Timeouts) -> list[Json]:
    by_default = _default_variant(policy, exposed, mesh)
    # The authorizer answers these in place of the check. Envoy's CORS filter acts only where a route has a destination.
    own: Json = {"host": mesh.host(mesh.authorizer), "port": {"number": mesh.authorizer_port}}
    return [
        {"name": "tollgate", "match": [{"uri": {"regex": OWN}}], "route": [{"destination": own}]},
        *(_document(document, policy) for document in documents(policy)),
        *(route for variant in exposed.variants for route in _routes(exposed, variant, variant, mesh, timeouts)),
        *_routes(exposed, "", by_default, mesh, timeouts),
        # Every request has a route, so the authorizer is called for every request.
        {"name": "no-such-path", "directResponse": {"status": 404}},
    ]


def _document(document: Document, policy: Policy) -> Json:
    match: Json = {"uri": {"exact": document.path}, "method": {"regex": READS}}
    if document.if_json_is_wanted:
        match["headers"] = {"accept": {"regex": JSON_WANTED}}
    headers = {"content-type": document.content_type, "vary": "accept", **filters.readable_by_pages(policy)}
    return {
        "name": _own_name(document),
        "match": [match],
        "directResponse": {"status": 200, "body": {"string": document.body}},
        "headers": {"response": {"set": headers}},
    }


def _own_name(document: Document) -> str:
    """No other VirtualService of the gateway may have a route of that name: it would not be checked either."""
    return f"{NAME}-{document.name}"


def _default_variant(policy: Policy, exposed: ExposedPaths, mesh: Mesh) -> str:
    """The pods of canaries must not get calls that no experiment covers."""
    if not exposed.variants:
        return ""
    first = {next(iter(experiment.weights)) for experiment in policy.experiments.values()}
    if mesh.default_variant in exposed.variants:
        return mesh.default_variant
    if mesh.default_variant or len(first) > 1:
        known = ", ".join(exposed.variants)
        raise ConfigError(f"--default-variant: say which of {known} serves calls that no experiment covers")
    return first.pop()


def _routes(exposed: ExposedPaths, variant: str, subset: str, mesh: Mesh, timeouts: Timeouts) -> Iterator[Json]:
    rest_port, grpc_port = mesh.triton_ports
    if exposed.streams:
        yield _route("stream", exposed.streams, variant, 0, _to(mesh, subset, grpc_port))
    if exposed.rpcs:
        yield _route("grpc", exposed.rpcs, variant, timeouts.request, _to(mesh, subset, grpc_port))
    if exposed.rest:
        yield _route("rest", exposed.rest, variant, timeouts.request, _to(mesh, subset, rest_port))


def _route(kind: str, patterns: Sequence[str], variant: str, timeout: float, to: Json) -> Json:
    headers: Json = {} if kind == "rest" else {"content-type": {"regex": _GRPC_CALLER}}
    if variant:
        headers[VARIANT] = {"exact": variant}
    return {
        "name": _name(kind, variant),
        "match": [{"uri": {"regex": pattern}} | ({"headers": headers} if headers else {}) for pattern in patterns],
        "route": [{"destination": to}],
        # None for streams: Istio sets `0s` by itself, and its API refuses it.
        **({"timeout": duration(timeout)} if timeout else {}),
        # Triton answers 500 to mistakes of clients: a retry would repeat them.
        "retries": {"attempts": 2, "retryOn": "connect-failure"},
        # Istio requests these headers, and they are added after the filter that removes others.
        "headers": {"request": {"remove": ["x-envoy-attempt-count", "x-envoy-decorator-operation"]}},
    }


def _name(kind: str, variant: str) -> str:
    return f"{variant}-{kind}" if variant else kind


def _to(mesh: Mesh, subset: str, port: int) -> Json:
    return {"host": mesh.host(mesh.triton), **({"subset": subset} if subset else {}), "port": {"number": port}}


def _destination(workload: Workload, mesh: Mesh, http: Json, policy: Json, more: Json) -> Json:
    """`http`: of its connections; `policy`: of its traffic."""
    pool = {
        "tcp": {"maxConnections": 1024, "connectTimeout": "1s"},
        # Full queues answer 503 instead of growing.
        "http": {"http1MaxPendingRequests": 4096, "http2MaxRequests": 4096, **http},
    }
    traffic = {"tls": {"mode": "ISTIO_MUTUAL"}, "connectionPool": pool, **policy}
    spec = {"host": mesh.host(workload), "trafficPolicy": traffic, **more}
    return manifest("DestinationRule", workload.name, workload.namespace, spec)


_UNREACHABLE: Json = {
    "splitExternalLocalOriginErrors": True,
    "consecutiveLocalOriginFailures": 2,
    # The sidecar of a dead authorizer answers UNAVAILABLE, which is no failure of a connection. The authorizer's own
    # 503 does not count: it travels in a CheckResponse, over a call that succeeded.
    "consecutiveGatewayErrors": 2,
    "consecutive5xxErrors": 0,
    "interval": "1s",
    "baseEjectionTime": "5s",
    "maxEjectionPercent": 50,
}
