"""HTTPRoutes and GRPCRoutes: the paths of the policy, by variant.

The Gateway API sorts rules by itself: exact methods of gRPC first, then longer patterns, then more headers. So of two
rules with one path the one with the header of the variant is first, and a last rule for all other paths cannot be said.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

from ext_authz.errors import ConfigError
from ext_authz.policy import names
from ext_authz.policy.model import Policy
from ext_authz.render.endpoints import Json, Timeouts
from ext_authz.render.exposed_paths import ExposedPaths, exposed_rpcs, pattern
from ext_authz.render.headers import ANY_VERSION, MODEL, UPSTREAM, VARIANT, VERSION
from ext_authz.render.istio.manifest import NAME, Manifest, manifest
from ext_authz.render.istio.mesh import Mesh, Workload
from ext_authz.render.istio.routes import (
    ADDED_BY_ISTIO,
    CONSOLE,
    CONSOLE_RPC,
    GRPC_CALLER,
    application_route,
    applications,
    default_variant,
    route_name,
    served_hosts,
)

T = TypeVar("T")

MOST_RULES, MOST_MATCHES, MOST_IN_RULE, MOST_HOSTS = 16, 127, 64, 16
"""Of one route, by the validation of the Gateway API."""
RPC = re.compile(r"/[A-Z_]\w*(\.[A-Z_]\w*)*/[A-Z_]\w*", re.ASCII | re.IGNORECASE)
"""What the Gateway API takes as one method."""
_SERVICE = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
BY_GRPC: Json = {"name": "content-type", "type": "RegularExpression", "value": GRPC_CALLER}
REDIRECT = f"{NAME}-redirect"


def redirect(policy: Policy, mesh: Mesh) -> Iterator[Manifest]:
    to_https = {
        "name": "redirect",
        "filters": [{"type": "RequestRedirect", "requestRedirect": {"scheme": "https", "statusCode": 301}}],
    }
    why = "Calls over plain HTTP are sent to HTTPS."
    yield from routes("HTTPRoute", REDIRECT, "http", [{"matches": [_under("/")], **to_https}], policy, mesh, why)


def rest_routes(policy: Policy, exposed: ExposedPaths, mesh: Mesh, timeouts: Timeouts) -> Iterator[Manifest]:
    rules = [own(mesh), *(console_rules(mesh, timeouts) if exposed.console else ())]
    rules += [_application(name, exposed, mesh, timeouts) for name in applications(exposed, mesh)]
    found = services(policy, exposed, mesh)
    for variant, to in found.items():
        of_variant = rest_rule(exposed, variant, to, mesh, timeouts)
        rules += [*_copied(of_variant, variant, found, exposed), of_variant]
    why = (
        "REST calls, routed after the check, by the variant in the header that the authorizer sets. There are no "
        "weights: the authorizer keeps each user with one variant. Paths under /.tollgate are its own: it answers them "
        "in place of the check, and nothing is forwarded."
    )
    yield from routes("HTTPRoute", NAME, listener(mesh), rules, policy, mesh, why)


def own(mesh: Mesh) -> Json:
    to = _to(mesh.authorizer, mesh.authorizer_port)
    return {"name": "own", "matches": [_under(f"/{names.RESERVED}")], "backendRefs": [to]}


def console_rules(mesh: Mesh, timeouts: Timeouts) -> Iterator[Json]:
    """Over HTTP."""
    yield rule(CONSOLE, "", [_under(f"/{names.CONSOLE}")], mesh.console, mesh.console_ports[0]) | timeout(
        timeouts.request
    )


def _application(name: str, exposed: ExposedPaths, mesh: Mesh, timeouts: Timeouts) -> Json:
    """See `render/upstreams.py`."""
    to, port = mesh.upstreams[name]
    by_authorizer = [{"name": UPSTREAM, "type": "Exact", "value": name}]
    matches = [{"path": regex(paths), "headers": by_authorizer} for paths in exposed.upstreams[name]]
    return rule("", "", matches, to, port) | {"name": application_route(name)} | timeout(timeouts.request)


def rest_rule(exposed: ExposedPaths, variant: str, to: Workload, mesh: Mesh, timeouts: Timeouts) -> Json:
    matches = [{"path": regex(paths), **_headers(variant)} for paths in exposed.rest]
    found = rule("rest", variant, matches, to, mesh.triton_ports[0]) | timeout(timeouts.request)
    return without_cookies(found, exposed)


def grpc_routes(policy: Policy, exposed: ExposedPaths, mesh: Mesh) -> Iterator[Manifest]:
    rpcs, streams = exposed_rpcs(policy)
    rules: list[Json] = []
    found = services(policy, exposed, mesh)
    for kind, paths in (("grpc", rpcs), ("stream", streams)):
        for variant, to in found.items():
            matches = [{"method": _method(path), **_headers(variant, BY_GRPC)} for path in paths]
            of_variant = without_cookies(rule(kind, variant, matches, to, mesh.triton_ports[1]), exposed)
            rules += [*(_copied(of_variant, variant, found, exposed) if kind == "grpc" else ()), of_variant]
    if exposed.console:
        matches = [{"method": {"type": "Exact", "service": service}} for service in names.CONSOLE_SERVICES]
        rules.append(rule(CONSOLE_RPC, "", matches, mesh.console, mesh.console_ports[1]))
    why = "gRPC calls, method by method, on the same hosts as REST calls: Istio serves both kinds of routes together."
    yield from routes("GRPCRoute", NAME, listener(mesh), rules, policy, mesh, why)


def services(policy: Policy, exposed: ExposedPaths, mesh: Mesh) -> dict[str, Workload]:
    """Who serves which variant; "" is for calls that no experiment covers. Subsets have no name in the Gateway API."""
    if not exposed.variants:
        return {"": mesh.triton}
    found = {variant: _service(variant, mesh) for variant in exposed.variants}
    return {**found, "": found[default_variant(policy, exposed, mesh)]}


def _service(variant: str, mesh: Mesh) -> Workload:
    name = f"{mesh.triton.name}-{variant}"
    if not _SERVICE.fullmatch(name):
        raise ConfigError(
            f"variant {variant!r}: the Gateway API needs a Service for each variant, and {name!r} cannot be the name "
            "of one: use lower-case letters, digits and hyphens"
        )
    return Workload(mesh.triton.namespace, name, {**mesh.triton.labels, mesh.variant_label: variant})


def rule(kind: str, variant: str, matches: list[Json], to: Workload, port: int) -> Json:
    remove = {"type": "RequestHeaderModifier", "requestHeaderModifier": {"remove": ADDED_BY_ISTIO}}
    return {
        "name": route_name(kind, variant),
        "matches": matches,
        "filters": [remove],
        "backendRefs": [_to(to, port)],
    }


def _copied(rule: Json, variant: str, found: Mapping[str, Workload], exposed: ExposedPaths) -> Iterator[Json]:
    """The rule for one model, as the authorizer names it: it has two headers more, so that it is the first."""
    (back,) = rule["backendRefs"]
    for copies in exposed.copies_of(variant):
        to = _to(found[copies.to], back["port"])
        mirror = {"type": "RequestMirror", "requestMirror": {"backendRef": to, "percent": copies.percent}}
        named = ((MODEL, copies.model), (VERSION, ANY_VERSION))
        of_model = [{"name": name, "type": "Exact", "value": value} for name, value in named]
        matches = [{**match, "headers": [*match["headers"], *of_model]} for match in rule["matches"]]
        name = f"{rule['name']}-{copies.model}"
        yield {**rule, "name": name, "matches": matches, "filters": [*rule["filters"], mirror]}


def without_cookies(rule: Json, exposed: ExposedPaths) -> Json:
    """See `render/console.py`."""
    if not exposed.has_cookies:
        return rule
    request = {"type": "RequestHeaderModifier", "requestHeaderModifier": {"remove": [*ADDED_BY_ISTIO, "cookie"]}}
    response = {"type": "ResponseHeaderModifier", "responseHeaderModifier": {"remove": ["set-cookie"]}}
    return {**rule, "filters": [request, response]}


def _to(workload: Workload, port: int) -> Json:
    return {"name": workload.name, "namespace": workload.namespace, "port": port}


def timeout(seconds: float) -> Json:
    """As the Gateway API writes durations, which have no fractions."""
    whole, thousandths = divmod(round(seconds * 1000), 1000)
    text = (f"{whole}s" if whole else "") + (f"{thousandths}ms" if thousandths else "")
    return {"timeouts": {"request": text}}


def _headers(variant: str, *others: Json) -> Json:
    found = [*([{"name": VARIANT, "type": "Exact", "value": variant}] if variant else []), *others]
    return {"headers": found} if found else {}


def _under(path: str) -> Json:
    return {"path": {"type": "PathPrefix", "value": path}}


def regex(paths: str) -> Json:
    return {"type": "RegularExpression", "value": paths}


def _method(path: str) -> Json:
    _, service, method = path.split("/", 2)
    if RPC.fullmatch(path):
        return {"type": "Exact", "service": service, "method": method}
    return {"type": "RegularExpression", "service": pattern(service), "method": pattern(method)}


def listener(mesh: Mesh) -> str:
    return "https" if mesh.tls_secret else "http"


def routes(
    kind: str, name: str, section: str, rules: list[Json], policy: Policy, mesh: Mesh, why: str
) -> Iterator[Manifest]:
    """As many as the limits of one need."""
    hosts = [host for host in served_hosts(policy, mesh) if host != "*"]
    spec: Json = {"parentRefs": [{"name": mesh.gateway_api, **({} if mesh.bind else {"sectionName": section})}]}
    parts = [
        spec | ({"hostnames": some_hosts} if some_hosts else {}) | {"rules": some_rules}
        for some_hosts in _chunks(hosts, MOST_HOSTS) or [[]]
        for some_rules in _packed(rules)
    ]
    for number, part in enumerate(parts, 1):
        yield manifest(80, kind, name if number == 1 else f"{name}-{number}", mesh.gateway_namespace, part, why=why)


def _packed(rules: Sequence[Json]) -> list[list[Json]]:
    """A rule with too many matches becomes several; of one name there is one in a route."""
    found: list[list[Json]] = []
    for rule in rules:
        for matches in _chunks(rule["matches"], MOST_IN_RULE):
            part = {**rule, "matches": matches}
            if found and _has_room(found[-1], part):
                found[-1].append(part)
            else:
                found.append([part])
    return found


def _has_room(rules: list[Json], more: Json) -> bool:
    matches = sum(len(rule["matches"]) for rule in rules) + len(more["matches"])
    return len(rules) < MOST_RULES and matches <= MOST_MATCHES and all(rule["name"] != more["name"] for rule in rules)


def _chunks(items: Sequence[T], size: int) -> list[Sequence[T]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
