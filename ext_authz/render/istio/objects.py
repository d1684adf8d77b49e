"""All objects of Istio for a policy.

| numbers | what a request meets |
|---|---|
| 10-29 | the gateway: listeners, and settings of connections |
| 30-54 | the check: the filter, how the authorizer is called, and who may call it |
| 55-79 | the way to Triton and to the console: sizes, connections, and who may call them |
| 76-77 | what is written about the answer |
| 80 | the routes, last: kubectl applies files in this order, and nothing is routed before the check is there |
"""

from __future__ import annotations

from collections.abc import Iterator

from ext_authz.policy.model import Policy
from ext_authz.render.endpoints import Timeouts
from ext_authz.render.exposed_paths import ExposedPaths, exposed_paths
from ext_authz.render.istio.access import access_policies, check_policy, extension_provider
from ext_authz.render.istio.access_log import access_log
from ext_authz.render.istio.address_limit import address_limit
from ext_authz.render.istio.gateway_filters import gateway_filters, pods
from ext_authz.render.istio.manifest import Manifest
from ext_authz.render.istio.mesh import Mesh
from ext_authz.render.istio.routes import routing, to_applications, to_console
from ext_authz.render.istio.services import key_servers, services
from ext_authz.render.istio.tokens import token_verification


def objects(policy: Policy, mesh: Mesh, timeouts: Timeouts = Timeouts()) -> list[Manifest]:  # noqa: B008 - frozen
    """In the order in which they are to be applied, after the first, which is for Istio's own chart.

    Raises:
        ConfigError: it is not clear which variant serves calls that no experiment covers, or a path is too long.
    """
    exposed = exposed_paths(policy)
    found = [
        *checked_gateway(policy, exposed, mesh, timeouts),
        pods(exposed, [mesh.host(mesh.triton)], mesh),
        *to_console(policy, mesh),
        *to_applications(exposed, mesh),
        *routing(policy, exposed, mesh, timeouts),
    ]
    return [extension_provider(mesh, timeouts), *sorted(found, key=lambda one: one.path)]


def checked_gateway(policy: Policy, exposed: ExposedPaths, mesh: Mesh, timeouts: Timeouts) -> Iterator[Manifest]:
    """All but listeners and routes, which exist in two forms: Istio's own and those of the Gateway API."""
    yield check_policy(mesh)
    yield from access_policies(policy, exposed, mesh)
    yield from services(policy, exposed, mesh)
    yield from key_servers(policy, mesh)
    yield from address_limit(policy, mesh)
    yield from token_verification(policy, mesh)
    yield from access_log(mesh)
    yield from gateway_filters(policy, exposed, mesh, timeouts)
