"""From the gateway to Triton: the variants of experiments first, by the header that the authorizer sets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ext_authz.errors import ConfigError
from ext_authz.policy.model import Policy
from ext_authz.render.bounds import CALLS_PER_CONNECTION, Bounds, Json, duration
from ext_authz.render.envoy_routes import NO_SUCH_PATH
from ext_authz.render.headers import VARIANT
from ext_authz.render.istio.mesh import NAME, Mesh, Workload, manifest
from ext_authz.render.surface import Surface

_GRPC_CALLER = r"application/grpc(\+.*)?"
"""Envoy's own test."""


def routing(policy: Policy, served: Surface, mesh: Mesh, bounds: Bounds) -> Iterator[Json]:
    hosts = list(mesh.hosts or _hosts(policy))
    if not mesh.bind:
        yield _gateway(hosts, mesh)
    spec = {"hosts": hosts, "gateways": [mesh.bind or NAME], "http": _http(policy, served, mesh, bounds)}
    yield manifest("VirtualService", NAME, mesh.gateway_namespace, spec)
    subsets = [{"name": variant, "labels": {mesh.variant_label: variant}} for variant in served.variants]
    yield _destination(mesh.triton, mesh, {}, {}, {"subsets": subsets} if subsets else {})
    recycled = {"maxRequestsPerConnection": CALLS_PER_CONNECTION}
    yield _destination(mesh.authorizer, mesh, recycled, {"outlierDetection": _UNREACHABLE}, {})


def grpc_routes(served: Surface) -> list[str]:
    """Names of the routes of gRPC calls, streams first."""
    kinds = [kind for kind, paths in (("stream", served.streams), ("grpc", served.rpcs)) if paths]
    return [_name(kind, variant) for kind in kinds for variant in (*served.variants, "")]


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


def _http(policy: Policy, served: Surface, mesh: Mesh, bounds: Bounds) -> list[Json]:
    by_default = _default_variant(policy, served, mesh)
    return [
        *(route for variant in served.variants for route in _served(served, variant, variant, mesh, bounds)),
        *_served(served, "", by_default, mesh, bounds),
        # Every request has a route, so every request is judged.
        {
            "name": "no-such-path",
            "directResponse": {"status": 404, "body": {"string": NO_SUCH_PATH}},
            "headers": {"response": {"set": {"content-type": "application/json"}}},
        },
    ]


def _default_variant(policy: Policy, served: Surface, mesh: Mesh) -> str:
    """The pods of canaries must not get what no experiment is about."""
    if not served.variants:
        return ""
    first = {next(iter(experiment.weights)) for experiment in policy.experiments.values()}
    if mesh.default_variant in served.variants:
        return mesh.default_variant
    if mesh.default_variant or len(first) > 1:
        known = ", ".join(served.variants)
        raise ConfigError(f"--default-variant: say which of {known} serves what no experiment is about")
    return first.pop()


def _served(served: Surface, variant: str, subset: str, mesh: Mesh, bounds: Bounds) -> Iterator[Json]:
    rest_port, grpc_port = mesh.triton_ports
    if served.streams:
        yield _route("stream", served.streams, variant, 0, _to(mesh, subset, grpc_port))
    if served.rpcs:
        yield _route("grpc", served.rpcs, variant, bounds.request, _to(mesh, subset, grpc_port))
    if served.rest:
        route = _route("rest", served.rest, variant, bounds.request, _to(mesh, subset, rest_port))
        # Triton parses a body that is called a form, and dies of a big one.
        route["headers"]["request"]["set"] = {"content-type": "application/json"}
        yield route


def _route(kind: str, patterns: Sequence[str], variant: str, timeout: float, to: Json) -> Json:
    asked: Json = {} if kind == "rest" else {"content-type": {"regex": _GRPC_CALLER}}
    if variant:
        asked[VARIANT] = {"exact": variant}
    return {
        "name": _name(kind, variant),
        "match": [{"uri": {"regex": pattern}} | ({"headers": asked} if asked else {}) for pattern in patterns],
        "route": [{"destination": to}],
        "timeout": duration(timeout),
        # Client mistakes are 500 at Triton: repeating them would only repeat them.
        "retries": {"attempts": 2, "retryOn": "connect-failure"},
        # Istio has it sent, and the router adds it after all filters.
        "headers": {"request": {"remove": ["x-envoy-attempt-count"]}},
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
    # A 503 is a verdict of the authorizer about its own dependencies: taking it out helps nobody.
    "consecutiveGatewayErrors": 0,
    "consecutive5xxErrors": 0,
    "interval": "1s",
    "baseEjectionTime": "5s",
    "maxEjectionPercent": 50,
}
