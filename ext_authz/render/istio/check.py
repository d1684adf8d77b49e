"""Ask the authorizer, about everything: the provider in the mesh's configuration, and the policy that uses it."""

from __future__ import annotations

from ext_authz.render.bounds import Bounds, Json, duration
from ext_authz.render.istio.mesh import NAME, Mesh, manifest


def mesh_config(mesh: Mesh, bounds: Bounds) -> Json:
    """Values for Istio's own chart (istiod); not an object of the cluster."""
    provider = {
        "service": mesh.host(mesh.authorizer),
        "port": mesh.authorizer_port,
        # Istio waits ten minutes without it.
        "timeout": duration(bounds.check),
        "failOpen": False,
        "statusOnError": "503",
        # Istio reads this and does nothing about it (istio#61558): the EnvoyFilter does.
        "clearRouteCache": True,
    }
    return {"meshConfig": {"extensionProviders": [{"name": NAME, "envoyExtAuthzGrpc": provider}]}}


def check(mesh: Mesh) -> Json:
    """No path stands in the rule: whatever reads a path differently from Triton would be a way round."""
    spec = {
        **mesh.gateway_only(selector="selector"),
        "action": "CUSTOM",
        "provider": {"name": NAME},
        "rules": [{}],
    }
    return manifest("AuthorizationPolicy", NAME, mesh.gateway_namespace, spec)
