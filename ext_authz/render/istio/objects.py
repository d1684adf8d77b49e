"""All objects for one policy, each under the name of its file."""

from __future__ import annotations

from ext_authz.policy.model import Policy
from ext_authz.render.bounds import Bounds, Json
from ext_authz.render.istio.check import check, mesh_config
from ext_authz.render.istio.envoy_filters import envoy_filters
from ext_authz.render.istio.locks import locks
from ext_authz.render.istio.mesh import NAME, Mesh
from ext_authz.render.istio.routing import routing
from ext_authz.render.surface import surface

MESH_CONFIG = f"istiod/meshconfig-{NAME}.yaml"
"""In a folder of its own: it goes to Istio's chart, and `kubectl apply -f` of the others must not meet it."""


def objects(policy: Policy, mesh: Mesh, bounds: Bounds = Bounds()) -> dict[str, Json]:  # noqa: B008 - frozen
    """Path to object, in the order in which they are to be applied: first lock, then ask, then let in.

    Raises:
        ConfigError: the policy's experiments do not say who serves the rest.
    """
    served = surface(policy)
    found = [
        *locks(mesh),
        check(mesh),
        *envoy_filters(policy, served, mesh, bounds),
        *routing(policy, served, mesh, bounds),
    ]
    named = {f"{one['kind'].lower()}-{one['metadata']['name']}.yaml": one for one in found}
    return {MESH_CONFIG: mesh_config(mesh, bounds), **named}
