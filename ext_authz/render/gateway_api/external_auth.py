"""Routes with the experimental filter ExternalAuth of the Gateway API (GEP-1494), for gateways other than Istio's.

Without EnvoyFilters a gateway neither reads the model out of a gRPC message, nor chooses the route after the check.
"""

from __future__ import annotations

from collections.abc import Iterator

from ext_authz.errors import ConfigError
from ext_authz.policy.model import Policy
from ext_authz.policy.names import CONSOLE_SERVICES
from ext_authz.policy.templates import overlap
from ext_authz.render import headers
from ext_authz.render.endpoints import Json, Timeouts
from ext_authz.render.exposed_paths import ExposedPaths, exposed_paths, exposed_rpcs, pattern, rest_of
from ext_authz.render.gateway_api.objects import gateway, grant
from ext_authz.render.gateway_api.routes import (
    BY_GRPC,
    RPC,
    console_rules,
    listener,
    own,
    regex,
    rest_rule,
    routes,
    rule,
    timeout,
)
from ext_authz.render.istio.manifest import NAME, Manifest
from ext_authz.render.istio.mesh import Mesh
from ext_authz.render.istio.routes import CONSOLE_RPC, ensure_short

_MOST_HEADERS = 64


def objects(policy: Policy, mesh: Mesh, timeouts: Timeouts = Timeouts()) -> list[Manifest]:  # noqa: B008 - frozen
    """In the order in which they are to be applied.

    Raises:
        ConfigError: the policy or the gateway needs what the filter cannot do.
    """
    _ensure_possible(policy, mesh)
    exposed = exposed_paths(policy)
    ensure_short(exposed)
    check = _check(policy, mesh)
    own_rules = [own(mesh), *(_console_rules(mesh, timeouts) if exposed.console else ())]
    rules = [rest_rule(exposed, "", mesh.triton, mesh, timeouts), *_rpc_rules(policy, exposed, mesh)]
    checked = [each | {"filters": [_strip(), check]} for each in own_rules]
    cookies = ("cookie",) if exposed.has_cookies else ()
    checked += [each | {"filters": [_strip(*cookies), check]} for each in rules if each["matches"]]
    why = (
        "All calls, each rule with the check by the authorizer. Headers that only the authorizer may set are removed. "
        "Not here: gRPC calls whose message names the model, which nobody reads for the authorizer."
    )
    owners = [mesh.authorizer, mesh.triton, *([mesh.console] if exposed.console else [])]
    found = [
        *([] if mesh.bind else gateway(policy, mesh)),
        *(grant(owner, [owner], mesh, ("HTTPRoute",)) for owner in owners),
        *routes("HTTPRoute", NAME, listener(mesh), checked, policy, mesh, why),
    ]
    return sorted(found, key=lambda one: one.path)


def left_out(policy: Policy) -> Iterator[str]:
    """What the policy serves elsewhere."""
    if names := exposed_paths(policy).naming_rpcs:
        methods = ", ".join(path.rpartition("/")[2] for path in names)
        yield f"gRPC calls whose message names the model ({methods}): clients must use REST"
    if applications := exposed_paths(policy).upstreams:
        yield f"applications ({', '.join(applications)}): the gateway chooses the route before the check"
    if policy.cors:
        yield "calls from web pages (cors): configure them at the gateway, in front of the check"
    if headers.verifies_keys(policy):
        yield "tokens that are bound to a client certificate: the authorizer is not told the certificate"
    yield "documents about the service and tokens, limits of sizes, and the form of what the gateway answers itself"


def _ensure_possible(policy: Policy, mesh: Mesh) -> None:
    if mesh.ambient:
        raise ConfigError("--external-auth and --ambient: only Istio has the second, so leave one out")
    if mesh.request_authentication or mesh.services:
        raise ConfigError(
            "--external-auth: --services is not rendered with it, nor --request-authentication: leave them out"
        )
    if policy.experiments:
        raise ConfigError(
            "--external-auth: the policy has experiments, whose variant is known only after the check, and the gateway "
            "chooses the route before it: leave out --external-auth (with Istio), or the experiments"
        )
    _ensure_apart(policy)
    if mesh.gateway_class == "istio":
        raise ConfigError(
            "--external-auth: Istio's gateways do not know that filter and would serve none of the routes: leave it "
            "out, or name another class with --gateway-class"
        )


def _ensure_apart(policy: Policy) -> None:
    """What the authorizer allows for an application would reach the models, on whatever host: the path is all by which
    the gateway chooses."""
    of_models = [path for route in policy.routes if not route.upstream for path in rest_of(route)]
    of_models += [path for paths in exposed_rpcs(policy) for path in paths]
    for route in policy.routes:
        if route.upstream and (taking := [path for path in of_models if overlap(path, route.path)]):
            raise ConfigError(
                f"--external-auth: {taking[0]} is a path of models, and of the application {route.upstream} too "
                f"(route {route.name!r}), and the gateway chooses the route before the check: give them other paths"
            )


def _check(policy: Policy, mesh: Mesh) -> Json:
    names = headers.wanted(policy) or ()
    if len(names) > _MOST_HEADERS:
        raise ConfigError(
            f"--external-auth: the policy reads {len(names)} headers, and the filter sends {_MOST_HEADERS} at most"
        )
    to = {"name": mesh.authorizer.name, "namespace": mesh.authorizer.namespace, "port": mesh.authorizer_port}
    # Without names all headers are sent; without forwardBody no body, for which a stream would wait without end.
    sent = {"allowedHeaders": list(names)} if names else {}
    return {"type": "ExternalAuth", "externalAuth": {"protocol": "GRPC", "backendRef": to, "grpc": sent}}


def _strip(*others: str) -> Json:
    """If the gateway does so after the check, Triton gets none of them, from the authorizer neither."""
    return {"type": "RequestHeaderModifier", "requestHeaderModifier": {"remove": [*headers.RESERVED, *others]}}


def _console_rules(mesh: Mesh, timeouts: Timeouts) -> Iterator[Json]:
    yield from console_rules(mesh, timeouts)
    services = [{"path": {"type": "PathPrefix", "value": f"/{service}"}} for service in CONSOLE_SERVICES]
    yield rule(CONSOLE_RPC, "", services, mesh.console, mesh.console_ports[1]) | timeout(timeouts.request)


def _rpc_rules(policy: Policy, exposed: ExposedPaths, mesh: Mesh) -> Iterator[Json]:
    rpcs, streams = exposed_rpcs(policy)
    others = [path for path in rpcs if path not in exposed.naming_rpcs]
    yield rule("grpc", "", [_call(path) for path in others], mesh.triton, mesh.triton_ports[1])
    endless = {"timeouts": {"request": "0s"}}
    yield rule("stream", "", [_call(path) for path in streams], mesh.triton, mesh.triton_ports[1]) | endless


def _call(path: str) -> Json:
    """In an HTTPRoute: a GRPCRoute does not have the filter."""
    found = {"type": "Exact", "value": path} if RPC.fullmatch(path) else regex(pattern(path))
    return {"path": found, "method": "POST", "headers": [BY_GRPC]}
