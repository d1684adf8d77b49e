"""Ambient mode: calls from inside the mesh are checked by a waypoint in front of Triton's Services.

While the waypoint is missing, ztunnel sends calls straight to Triton's pods: there the access policies refuse them,
because only the accounts of the gateway and of the waypoint may call.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from ext_authz.errors import ConfigError
from ext_authz.policy.model import Policy
from ext_authz.render import filters
from ext_authz.render.endpoints import Json, Timeouts
from ext_authz.render.exposed_paths import ExposedPaths
from ext_authz.render.istio.access import check_policy
from ext_authz.render.istio.gateway_filters import gateway_filters, patch
from ext_authz.render.istio.manifest import GATEWAY_API, NAME, Manifest, manifest
from ext_authz.render.istio.mesh import WAYPOINT, Mesh
from ext_authz.render.istio.tokens import token_verification

_CALLS = "main_internal"
"""The waypoint's listener for what callers sent; another one ends their tunnels, which have no time limit."""


def waypoint(policy: Policy, exposed: ExposedPaths, mesh: Mesh, timeouts: Timeouts) -> Iterator[Manifest]:
    """Raises:
    ConfigError: the policy has experiments.
    """
    if exposed.variants:
        raise ConfigError(
            "--ambient: the policy has experiments, and Istio merges no settings into routes of a waypoint: leave out "
            "--ambient, and let callers inside the mesh use the gateway"
        )
    here = replace(mesh, gateway_api=WAYPOINT, gateway_namespace=mesh.triton.namespace)
    yield from _namespaces(mesh)
    listeners = [{"name": "mesh", "port": 15008, "protocol": "HBONE"}]
    spec = {"gatewayClassName": "istio-waypoint", "listeners": listeners}
    why = (
        "Who checks calls from inside the mesh to Triton's Services: istiod makes pods and the account "
        f"{WAYPOINT} for it."
    )
    yield manifest(10, "Gateway", WAYPOINT, here.gateway_namespace, spec, why=why, api=f"{GATEWAY_API}/v1")
    parts = (check_policy(here), *token_verification(policy, here), *gateway_filters(policy, exposed, here, timeouts))
    for one in parts:
        yield _named(_at_waypoint(one, mesh, timeouts))


def _namespaces(mesh: Mesh) -> Iterator[Manifest]:
    ambient = {"istio.io/dataplane-mode": "ambient"}
    labels = {mesh.authorizer.namespace: ambient}
    labels[mesh.triton.namespace] = {**ambient, "istio.io/use-waypoint": WAYPOINT}
    why = (
        "Pods of this namespace are in the mesh without sidecars; with a waypoint, calls to its Services go through it."
    )
    for name, of in labels.items():
        content = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": of}}
        yield Manifest(f"05-namespace-{name}.yaml", why, content)


def _named(one: Manifest) -> Manifest:
    """Not like the object of the gateway."""
    name = one.content["metadata"]["name"].replace(NAME, WAYPOINT, 1)
    content = {**one.content, "metadata": {**one.content["metadata"], "name": name}}
    return Manifest(one.path.replace(f"-{NAME}", f"-{WAYPOINT}", 1), f"At the waypoint. {one.why}", content)


def _at_waypoint(one: Manifest, mesh: Mesh, timeouts: Timeouts) -> Manifest:
    if one.content["kind"] != "EnvoyFilter":
        return one
    spec = one.content["spec"]
    patches = [_moved(each) for each in spec["configPatches"] if "routeConfiguration" not in each["match"]]
    if any("request_body_buffer_limit" in each["patch"]["value"] for each in spec["configPatches"]):
        patches.append(_moved(_unbuffered(mesh, timeouts)))
    return replace(one, content={**one.content, "spec": {**spec, "configPatches": patches}})


def _unbuffered(mesh: Mesh, timeouts: Timeouts) -> Json:
    """A waypoint has one route for each port of a Service: all calls to the port for gRPC are gRPC."""
    port = {"routeConfiguration": {"vhost": {"name": f"inbound|http|{mesh.triton_ports[1]}", "route": {}}}}
    whole = {"request_body_buffer_limit": timeouts.grpc_bytes, "typed_per_filter_config": filters.unbuffered()}
    return patch("HTTP_ROUTE", port, "MERGE", whole)


def _moved(each: Json) -> Json:
    match = {**each["match"], "context": "SIDECAR_OUTBOUND" if each["applyTo"] == "CLUSTER" else "SIDECAR_INBOUND"}
    if each["applyTo"] in ("LISTENER", "NETWORK_FILTER", "HTTP_FILTER"):
        match["listener"] = {"name": _CALLS, **match.get("listener", {})}
    return {**each, "match": match}
