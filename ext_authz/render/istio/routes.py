"""Where callers connect, and where each call goes: by the header with the variant, which the authorizer sets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ext_authz.errors import ConfigError
from ext_authz.policy.model import Policy
from ext_authz.render.console import IDLE_SECONDS, PATHS, RPCS
from ext_authz.render.endpoints import CALLS_PER_CONNECTION, Json, Timeouts, duration
from ext_authz.render.exposed_paths import LONGEST_PATTERN, OWN, Copies, ExposedPaths
from ext_authz.render.headers import ANY_VERSION, MODEL, UPSTREAM, USER, VARIANT, VERSION
from ext_authz.render.istio.manifest import NAME, Manifest, manifest
from ext_authz.render.istio.mesh import Mesh, Workload

TO_HTTPS = f"{NAME}-https"
_PLAIN = 80
"""The port of plain HTTP."""

CONSOLE, CONSOLE_RPC = "console", "console-rpc"
"""Names of the routes to the console; those to variants end with the kind of their calls, so none is called so."""

GRPC_CALLER = r"application/grpc(\+.*)?"
"""Envoy's own test."""
ADDED_BY_ISTIO = ["x-envoy-attempt-count", "x-envoy-decorator-operation"]
"""Headers to Triton, behind the filter that removes others."""


def routing(policy: Policy, exposed: ExposedPaths, mesh: Mesh, timeouts: Timeouts) -> Iterator[Manifest]:
    """Raises:
    ConfigError: it is not clear which variant serves calls that no experiment covers, or a path is too long.
    """
    ensure_short(exposed)
    hosts = served_hosts(policy, mesh)
    if not mesh.bind:
        yield _gateway(hosts, mesh)
    yield to_authorizer(mesh, timeouts)
    yield _to_triton(exposed, mesh)
    spec = {"hosts": hosts, "gateways": [mesh.bind or NAME], "http": _http(policy, exposed, mesh, timeouts)}
    why = (
        "The routes, chosen after the check: variants first, by the header that the authorizer sets, then calls that "
        "no experiment covers. Only paths of the policy lead to Triton; all others are answered with 404, and are "
        "checked, too. Only failed connections are tried again, so no inference runs twice. Last of all objects: "
        "nothing is routed before the check and the access policies are there."
    )
    yield manifest(80, "VirtualService", NAME, mesh.gateway_namespace, spec, why=why)


def ensure_short(exposed: ExposedPaths) -> None:
    applications = (pattern for patterns in exposed.upstreams.values() for pattern in patterns)
    for pattern in (*exposed.rest, *exposed.rpcs, *exposed.streams, *applications):
        if len(pattern) > LONGEST_PATTERN:
            raise ConfigError(
                f"a path is too long for Istio, which takes patterns of {LONGEST_PATTERN} characters at most: "
                f"shorten the path of {pattern[:60]}..."
            )


def served_hosts(policy: Policy, mesh: Mesh) -> list[str]:
    """One route for any host makes them all of any."""
    if mesh.hosts:
        return list(mesh.hosts)
    found = sorted({host for route in policy.routes for host in route.hosts or ("*",)})
    return ["*"] if "*" in found else found


def _gateway(hosts: list[str], mesh: Mesh) -> Manifest:
    servers: list[Json] = [{"port": {"number": _PLAIN, "name": "http", "protocol": "HTTP"}, "hosts": hosts}]
    if mesh.tls_secret:
        tls = {"mode": "SIMPLE", "credentialName": mesh.tls_secret, "minProtocolVersion": "TLSV1_2"}
        servers.append({"port": {"number": 443, "name": "https", "protocol": "HTTPS"}, "tls": tls, "hosts": hosts})
    spec = {"selector": dict(mesh.gateway_labels), "servers": servers}
    why = (
        "Where callers connect: the listener of the gateway's pods, for these hosts. The certificate is a Secret in "
        "the gateway's namespace, such as the one of a Certificate of cert-manager. Plain HTTP is redirected to HTTPS."
        if mesh.tls_secret
        else "Where callers connect: the listener of the gateway's pods, for these hosts, over plain HTTP: something "
        "in front of it must end TLS, or tokens can be read on the way."
    )
    return manifest(10, "Gateway", NAME, mesh.gateway_namespace, spec, why=why)


def _http(policy: Policy, exposed: ExposedPaths, mesh: Mesh, timeouts: Timeouts) -> list[Json]:
    by_default = default_variant(policy, exposed, mesh)
    # The authorizer answers these in place of the check. Envoy's CORS filter acts only where a route has a destination.
    own: Json = {"host": mesh.host(mesh.authorizer), "port": {"number": mesh.authorizer_port}}
    # Istio's own httpsRedirect would come after the check: without a token it would be a refusal.
    https = {"match": [{"port": _PLAIN}], "redirect": {"scheme": "https", "redirectCode": 301}}
    return [
        *([{"name": TO_HTTPS, **https}] if mesh.redirects else []),
        {"name": "tollgate", "match": [{"uri": {"regex": OWN}}], "route": [{"destination": own}]},
        *(_console(mesh, timeouts) if exposed.console else ()),
        *(_application(name, exposed, mesh, timeouts) for name in applications(exposed, mesh)),
        *(route for variant in exposed.variants for route in _routes(exposed, variant, variant, mesh, timeouts)),
        *_routes(exposed, "", by_default, mesh, timeouts),
        # Every request has a route, so the authorizer is called for every request.
        {"name": "no-such-path", "directResponse": {"status": 404}},
    ]


def _console(mesh: Mesh, timeouts: Timeouts) -> Iterator[Json]:
    host, (http, rpc) = mesh.host(mesh.console), mesh.console_ports
    yield _route(CONSOLE_RPC, [RPCS], "", timeouts.request, {"host": host, "port": {"number": rpc}})
    yield _route(CONSOLE, [PATHS], "", timeouts.request, {"host": host, "port": {"number": http}})


def applications(exposed: ExposedPaths, mesh: Mesh) -> list[str]:
    """Those that the policy names, and the mesh has."""
    return [name for name in exposed.upstreams if name in mesh.upstreams]


def application_route(name: str) -> str:
    """No variant has a dot in its name, and no kind of calls."""
    return f"application.{name}"


def _application(name: str, exposed: ExposedPaths, mesh: Mesh, timeouts: Timeouts) -> Json:
    """See `render/upstreams.py`."""
    workload, port = mesh.upstreams[name]
    to = {"host": mesh.host(workload), "port": {"number": port}}
    found = _route("rest", exposed.upstreams[name], "", timeouts.request, to)
    by_authorizer = {UPSTREAM: {"exact": name}}
    return {
        **found,
        "name": application_route(name),
        "match": [{**match, "headers": by_authorizer} for match in found["match"]],
    }


def default_variant(policy: Policy, exposed: ExposedPaths, mesh: Mesh) -> str:
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
        found = _route("stream", exposed.streams, variant, 0, _to(mesh, subset, grpc_port))
        yield _without_cookies(found, exposed)
    for kind, paths, port in (("grpc", exposed.rpcs, grpc_port), ("rest", exposed.rest, rest_port)):
        if paths:
            found = _route(kind, paths, variant, timeouts.request, _to(mesh, subset, port))
            found = _without_cookies(found, exposed)
            yield from (_copied(found, each, _to(mesh, each.to, port)) for each in exposed.copies_of(variant))
            yield found


def _copied(route: Json, copies: Copies, to: Json) -> Json:
    """The route for one model, as the authorizer names it; nobody gets the answers to copies."""
    of_model = {MODEL: {"exact": copies.model}, VERSION: {"exact": ANY_VERSION}}
    return {
        **route,
        "name": f"{route['name']}-{copies.model}",
        "match": [{**match, "headers": {**match["headers"], **of_model}} for match in route["match"]],
        "mirrors": [{"destination": to, "percentage": {"value": copies.percent}}],
    }


def _without_cookies(route: Json, exposed: ExposedPaths) -> Json:
    """See `render/console.py`."""
    if not exposed.has_cookies:
        return route
    return {
        **route,
        "headers": {"request": {"remove": [*ADDED_BY_ISTIO, "cookie"]}, "response": {"remove": ["set-cookie"]}},
    }


def _route(kind: str, patterns: Sequence[str], variant: str, timeout: float, to: Json) -> Json:
    headers: Json = {} if kind in ("rest", CONSOLE) else {"content-type": {"regex": GRPC_CALLER}}
    if variant:
        headers[VARIANT] = {"exact": variant}
    return {
        "name": route_name(kind, variant),
        "match": [{"uri": {"regex": pattern}} | ({"headers": headers} if headers else {}) for pattern in patterns],
        "route": [{"destination": to}],
        # None for streams: Istio sets `0s` by itself, and its API refuses it.
        **({"timeout": duration(timeout)} if timeout else {}),
        # Triton answers 500 to mistakes of clients: a retry would repeat them.
        "retries": {"attempts": 2, "retryOn": "connect-failure"},
        "headers": {"request": {"remove": ADDED_BY_ISTIO}},
    }


def route_name(kind: str, variant: str, model: str = "") -> str:
    return "-".join(filter(None, (variant, kind, model)))


def _to(mesh: Mesh, subset: str, port: int) -> Json:
    return {"host": mesh.host(mesh.triton), **({"subset": subset} if subset else {}), "port": {"number": port}}


def to_authorizer(mesh: Mesh, timeouts: Timeouts) -> Manifest:
    http = {
        "http1MaxPendingRequests": timeouts.checks,
        "http2MaxRequests": timeouts.checks,
        "maxRequestsPerConnection": CALLS_PER_CONNECTION,
    }
    why = (
        "How the gateway calls the authorizer: mutual TLS, bounded checks in flight, and an authorizer that fails "
        "twice is not asked for some seconds, also when only the process behind its sidecar is dead."
    )
    return destination(40, mesh.authorizer, mesh, http, {"outlierDetection": _UNREACHABLE}, {}, why)


def to_console(policy: Policy, mesh: Mesh) -> Iterator[Manifest]:
    """Nothing without one."""
    if policy.tokens:
        why = (
            "How the gateway calls the console: mutual TLS and bounded queues. Connections are closed before the "
            "console itself closes them, so that no request meets a closed one."
        )
        yield destination(63, mesh.console, mesh, {"idleTimeout": duration(IDLE_SECONDS)}, {}, {}, why)


def to_applications(exposed: ExposedPaths, mesh: Mesh) -> Iterator[Manifest]:
    for name in applications(exposed, mesh):
        why = (
            f"How the gateway calls the application {name}: mutual TLS and bounded queues. Connections are closed "
            "before most servers close them, so that no request meets a closed one."
        )
        workload, _ = mesh.upstreams[name]
        yield destination(63, workload, mesh, {"idleTimeout": duration(IDLE_SECONDS)}, {}, {}, why)


def _to_triton(exposed: ExposedPaths, mesh: Mesh) -> Manifest:
    subsets = [{"name": variant, "labels": {mesh.variant_label: variant}} for variant in exposed.variants]
    why = (
        "How the gateway calls Triton: mutual TLS and bounded queues, which answer 503 when full. Each variant of an "
        "experiment is a subset of the pods, by label. The pod in it is chosen by the verified user."
    )
    more: Json = {"subsets": subsets} if subsets else {}
    return destination(60, mesh.triton, mesh, {}, by_user(mesh), more, why)


def by_user(mesh: Mesh) -> Json:
    """By the header that the authorizer sets; calls without it go to any pod. Not in ambient mode: at a waypoint there
    would be neither a bound nor a retry at another pod."""
    return {} if mesh.ambient else {"loadBalancer": {"consistentHash": {"httpHeaderName": USER}}}


def destination(
    number: int, workload: Workload, mesh: Mesh, http: Json, policy: Json, more: Json, why: str
) -> Manifest:
    """`http`: of its connections; `policy`: of its traffic."""
    pool = {
        "tcp": {"maxConnections": 1024, "connectTimeout": "1s"},
        # Full queues answer 503 instead of growing.
        "http": {"http1MaxPendingRequests": 4096, "http2MaxRequests": 4096, **http},
    }
    traffic = {"tls": {"mode": "ISTIO_MUTUAL"}, "connectionPool": pool, **policy}
    spec = {"host": mesh.host(workload), "trafficPolicy": traffic, **more}
    return manifest(number, "DestinationRule", workload.name, workload.namespace, spec, why=why)


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
