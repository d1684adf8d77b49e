"""Who may call whom: the check at the gateway, and the gateway alone at the authorizer and Triton."""

from __future__ import annotations

from collections.abc import Iterator

from ext_authz.policy.model import Policy
from ext_authz.render.endpoints import Json, Timeouts, duration
from ext_authz.render.exposed_paths import ExposedPaths
from ext_authz.render.istio.access_log import access_log_providers
from ext_authz.render.istio.manifest import NAME, Manifest, manifest
from ext_authz.render.istio.mesh import Mesh, Workload
from ext_authz.render.istio.routes import applications

MESH_CONFIG = f"istiod/meshconfig-{NAME}.yaml"
"""In a folder of its own: it goes to Istio's chart, and `kubectl apply -f` of the others must not meet it."""

_TRITON_METRICS = 8002
_AUTHORIZER_METRICS = 9001
_CONSOLE_METRICS = 9012


def extension_provider(mesh: Mesh, timeouts: Timeouts) -> Manifest:
    """Values for Istio's own chart (istiod); not an object of the cluster."""
    provider = {
        "service": mesh.host(mesh.authorizer),
        "port": mesh.authorizer_port,
        # Istio waits ten minutes without it.
        "timeout": duration(timeouts.check),
        "failOpen": False,
        "statusOnError": "503",
        # Istio reads this and does nothing about it (istio#61558): the EnvoyFilter does.
        "clearRouteCache": True,
    }
    content = {
        "meshConfig": {
            "defaultConfig": {"proxyStatsMatcher": {"inclusionRegexps": [_counted(mesh)]}},
            "extensionProviders": [
                {"name": mesh.authorizer.name, "envoyExtAuthzGrpc": provider},
                *access_log_providers(mesh),
            ],
        }
    }
    why = (
        "Values for Istio's own chart (istiod): where the authorizer is. The AuthorizationPolicy of the check names "
        "this provider; while the mesh configuration lacks it, Istio answers every request with 403. Without an answer "
        "of the authorizer in time a request is refused with 503. Istio's proxies export no metrics of clusters by "
        "themselves; the canary's dashboard needs these, and the bound of calls per pod the active ones. Pods get them "
        "when they are made anew. The second provider is the usage worker, to which the Telemetry object has the "
        "gateway send what became of each call."
    )
    return Manifest(MESH_CONFIG, why, content)


def _counted(mesh: Mesh) -> str:
    """What Envoy counts of calls to the authorizer and to each variant of Triton, by the names that Istio gives."""
    hosts = f"{mesh.authorizer.name}[.]{mesh.authorizer.namespace}|{mesh.triton.name}[^.]*[.]{mesh.triton.namespace}"
    counted = "active|completed|5xx|time|pending_overflow|active_overflow"
    return f"cluster[.]outbound[|][0-9]+[|][^|]*[|]({hosts})[.]svc[.].*;[.]upstream_rq_({counted})"


def check_policy(mesh: Mesh) -> Manifest:
    provider = {"name": mesh.authorizer.name}
    spec = {**mesh.gateway_only(selector="selector"), "action": "CUSTOM", "provider": provider, "rules": [{}]}
    why = (
        "The check: the gateway asks the authorizer about every request before it is routed. The rule has no path or "
        "host: whatever reads a path differently from Triton would be a way around the check. The provider is in the "
        "mesh configuration (istiod/)."
    )
    return manifest(30, "AuthorizationPolicy", NAME, mesh.gateway_namespace, spec, why=why)


def access_policies(policy: Policy, exposed: ExposedPaths, mesh: Mesh) -> Iterator[Manifest]:
    """Only the gateway may call Triton, the authorizer, the console and applications, over mutual TLS.

    Limited to what sidecars and ztunnel both enforce: principals and ports.
    """
    reason = "Its callers can write into the ledger and choose whose quota is taken."
    yield from _gateway_only(45, mesh.authorizer, (mesh.authorizer_port,), _AUTHORIZER_METRICS, reason, mesh)
    reason = "A call that does not come through the gateway would not be checked."
    yield from _gateway_only(65, mesh.triton, mesh.triton_ports, _TRITON_METRICS, reason, mesh)
    if policy.tokens:
        reason = "The authorizer may fetch its keys, too. It takes the gateway's word for the address of a caller."
        keys = _rule((mesh.authorizer_principal,), mesh.console_ports[:1])
        yield from _gateway_only(66, mesh.console, mesh.console_ports, _CONSOLE_METRICS, reason, mesh, keys)
    reason = "It takes the gateway's word for who a caller is, and a call that does not come through it is not checked."
    for name in applications(exposed, mesh):
        workload, port = mesh.upstreams[name]
        yield from _gateway_only(67, workload, (port,), 0, reason, mesh)


def _gateway_only(
    number: int, target: Workload, ports: tuple[int, ...], metrics: int, reason: str, mesh: Mesh, *others: Json
) -> Iterator[Manifest]:
    """`others`: further rules. `metrics`: a port; 0: it has none."""
    pods = {"selector": {"matchLabels": dict(target.labels)}}
    why = (
        f"Calls to the pods of {target.name} must use mutual TLS of the mesh: in plain text a caller has no identity "
        "that the next object could compare."
    )
    spec = {**pods, "mtls": {"mode": "STRICT"}}
    yield manifest(number, "PeerAuthentication", target.name, target.namespace, spec, why=why)
    rules = [_rule(mesh.checking_principals, ports), *others]
    if mesh.metrics_principals and metrics:
        rules.append(_rule(mesh.metrics_principals, (metrics,)))
    why = (
        f"Only the gateway's account may call {target.name}, and only on the ports for calls. {reason} Principals and "
        "ports alone: sidecars and ztunnel enforce both."
    )
    spec = {**pods, "action": "ALLOW", "rules": rules}
    yield manifest(number + 5, "AuthorizationPolicy", f"{target.name}-gateway-only", target.namespace, spec, why=why)


def _rule(principals: tuple[str, ...], ports: tuple[int, ...]) -> Json:
    return {
        "from": [{"source": {"principals": list(principals)}}],
        "to": [{"operation": {"ports": [str(port) for port in ports]}}],
    }
