"""No way past the gateway: only it may speak to Triton and to the authorizer, and only over mutual TLS.

Kept to what sidecars and ztunnel alike enforce: principals and ports.
"""

from __future__ import annotations

from collections.abc import Iterator

from ext_authz.render.bounds import Json
from ext_authz.render.istio.mesh import Mesh, Workload, manifest

_TRITON_METRICS = 8002
_AUTHORIZER_METRICS = 9001


def locks(mesh: Mesh) -> Iterator[Json]:
    for workload, ports, metrics in (
        (mesh.triton, mesh.triton_ports, _TRITON_METRICS),
        (mesh.authorizer, (mesh.authorizer_port,), _AUTHORIZER_METRICS),
    ):
        yield _mutual_tls(workload)
        rules = [_rule((mesh.gateway_principal,), ports)]
        if mesh.metrics_principals:
            rules.append(_rule(mesh.metrics_principals, (metrics,)))
        yield _only(workload, rules)


def _mutual_tls(workload: Workload) -> Json:
    spec = {"selector": {"matchLabels": dict(workload.labels)}, "mtls": {"mode": "STRICT"}}
    return manifest("PeerAuthentication", workload.name, workload.namespace, spec)


def _only(workload: Workload, rules: list[Json]) -> Json:
    """Whoever asks the authorizer can write into the ledger, so it is locked like the models."""
    spec = {"selector": {"matchLabels": dict(workload.labels)}, "action": "ALLOW", "rules": rules}
    return manifest("AuthorizationPolicy", f"{workload.name}-lock", workload.namespace, spec)


def _rule(principals: tuple[str, ...], ports: tuple[int, ...]) -> Json:
    return {
        "from": [{"source": {"principals": list(principals)}}],
        "to": [{"operation": {"ports": [str(port) for port in ports]}}],
    }
