"""All objects for a policy whose gateway and routes are those of the Gateway API, in an Istio mesh.

The check, the access policies and the EnvoyFilters are those of `render/istio/`, attached to the Gateway by its name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from ext_authz.policy.model import Policy
from ext_authz.render import filters
from ext_authz.render.endpoints import Json, Timeouts, duration
from ext_authz.render.envoy import no_such_path
from ext_authz.render.exposed_paths import ExposedPaths, exposed_paths
from ext_authz.render.gateway_api.ambient import waypoint
from ext_authz.render.gateway_api.routes import grpc_routes, redirect, rest_routes, services
from ext_authz.render.istio.access import extension_provider
from ext_authz.render.istio.gateway_filters import envoy_filter, names_of_routes, patch, pods, route_named
from ext_authz.render.istio.manifest import GATEWAY_API, NAME, Manifest, manifest
from ext_authz.render.istio.mesh import Mesh, Workload
from ext_authz.render.istio.objects import checked_gateway
from ext_authz.render.istio.routes import (
    CONSOLE,
    CONSOLE_RPC,
    application_route,
    applications,
    by_user,
    destination,
    ensure_short,
    to_applications,
    to_authorizer,
    to_console,
)


def objects(policy: Policy, mesh: Mesh, timeouts: Timeouts = Timeouts()) -> list[Manifest]:  # noqa: B008 - frozen
    """In the order in which they are to be applied, after the first, which is for Istio's own chart.

    Raises:
        ConfigError: it is not clear which variant serves calls that no experiment covers, a path is too long, or the
            name of a variant cannot be that of a Service.
    """
    exposed = exposed_paths(policy)
    ensure_short(exposed)
    found = [
        *checked_gateway(policy, exposed, mesh, timeouts),
        *([] if mesh.bind else gateway(policy, mesh)),
        to_authorizer(mesh, timeouts),
        *_to_triton(policy, exposed, mesh),
        *to_console(policy, mesh),
        *to_applications(exposed, mesh),
        *([grant(mesh.console, [mesh.console], mesh)] if policy.tokens else []),
        *(grant(workload, [workload], mesh) for workload in _of_applications(exposed, mesh)),
        envoy_filter(75, "routes", 5, _route_settings(exposed, mesh, timeouts), mesh, _WHY_SETTINGS),
        *rest_routes(policy, exposed, mesh, timeouts),
        *grpc_routes(policy, exposed, mesh),
        *(waypoint(policy, exposed, mesh, timeouts) if mesh.ambient else ()),
    ]
    return [extension_provider(mesh, timeouts), *sorted(found, key=lambda one: one.path)]


def _of_applications(exposed: ExposedPaths, mesh: Mesh) -> Iterator[Workload]:
    for name in applications(exposed, mesh):
        yield mesh.upstreams[name][0]


def gateway(policy: Policy, mesh: Mesh) -> Iterator[Manifest]:
    from_here: Json = {"allowedRoutes": {"namespaces": {"from": "Same"}}}
    listeners: list[Json] = [{"name": "http", "port": 80, "protocol": "HTTP", **from_here}]
    if mesh.tls_secret:
        tls = {"mode": "Terminate", "certificateRefs": [{"name": mesh.tls_secret}]}
        listeners.append({"name": "https", "port": 443, "protocol": "HTTPS", "tls": tls, **from_here})
        yield from redirect(policy, mesh)
    why = (
        "Where callers connect: pods, a Service and an account are made for it. Only routes of this namespace can be "
        "attached. The certificate is a Secret here, such as the one of a Certificate of cert-manager."
    )
    spec = {"gatewayClassName": mesh.gateway_class, "listeners": listeners}
    yield manifest(10, "Gateway", mesh.gateway_api, mesh.gateway_namespace, spec, why=why, api=f"{GATEWAY_API}/v1")


def _to_triton(policy: Policy, exposed: ExposedPaths, mesh: Mesh) -> Iterator[Manifest]:
    used = {service.name: service for service in services(policy, exposed, mesh).values()}
    if exposed.variants:
        yield from (_service(service, mesh) for service in used.values())
    for service in used.values():
        why = f"How the gateway calls {service.name}: mutual TLS and bounded queues, which answer 503 when full."
        why += "" if mesh.ambient else " The pod is chosen by the verified user."
        yield destination(60, service, mesh, {}, by_user(mesh), {}, why)
    if not mesh.ambient:
        yield pods(exposed, [mesh.host(service) for service in used.values()], mesh)
    yield grant(mesh.authorizer, [mesh.authorizer], mesh)
    yield grant(mesh.triton, used.values(), mesh)


def _service(service: Workload, mesh: Mesh) -> Manifest:
    ports = [
        {"name": name, "port": port, "targetPort": port, "appProtocol": name}
        for name, port in zip(("http", "grpc"), mesh.triton_ports, strict=True)
    ]
    why = (
        "The pods of one variant, by their label: a route of the Gateway API leads to a Service, and cannot name a "
        "subset. Istio takes the protocol from the names of the ports."
    )
    spec = {"selector": dict(service.labels), "ports": ports}
    return manifest(58, "Service", service.name, service.namespace, spec, why=why)


def grant(
    owner: Workload, targets: Iterable[Workload], mesh: Mesh, kinds: Sequence[str] = ("HTTPRoute", "GRPCRoute")
) -> Manifest:
    """In the namespace of the Services, whose owner allows it."""
    spec = {
        "from": [{"group": GATEWAY_API, "kind": kind, "namespace": mesh.gateway_namespace} for kind in kinds],
        "to": [{"group": "", "kind": "Service", "name": target.name} for target in targets],
    }
    why = (
        f"Routes of the gateway's namespace may lead to these Services of {owner.namespace}; nobody else's routes may."
    )
    return manifest(78, "ReferenceGrant", f"{NAME}-{owner.name}", owner.namespace, spec, why=why)


_WHY_SETTINGS = (
    "What routes of the Gateway API have no field for: every other path is answered with 404 and is checked, too; only "
    "failed connections are tried again, so no inference runs twice; a gRPC call that is no stream has a timeout."
)


def _route_settings(exposed: ExposedPaths, mesh: Mesh, timeouts: Timeouts) -> Iterator[Json]:
    for kind in ("stream", "grpc", "rest"):
        # Istio would repeat calls that Triton answers with UNAVAILABLE.
        action: Json = {"retry_policy": {"retry_on": "connect-failure", "num_retries": 2}}
        action |= {"timeout": duration(timeouts.request)} if kind == "grpc" else {}
        for name in names_of_routes(exposed, kind):
            yield patch("HTTP_ROUTE", route_named(name), "MERGE", {"route": action})
    others = [CONSOLE, CONSOLE_RPC] if exposed.console else []
    if others := others + [application_route(name) for name in applications(exposed, mesh)]:
        action = {"retry_policy": {"retry_on": "connect-failure", "num_retries": 2}}
        action |= {"timeout": duration(timeouts.request)}
        for name in others:
            yield patch("HTTP_ROUTE", route_named(name), "MERGE", {"route": action})
    yield patch("HTTP_ROUTE", {}, "ADD", no_such_path({"prefix": "/"}))
    if mesh.tls_secret and not mesh.bind:
        # Before the check: a call that is only redirected takes no quota.
        to_https = {"match": {"prefix": "/"}, "redirect": {"https_redirect": True}}
        plain = {"routeConfiguration": {"portNumber": 80}}
        yield patch("HTTP_ROUTE", plain, "INSERT_FIRST", to_https | {"typed_per_filter_config": filters.unchecked()})
