"""One file of what is rendered for Istio: an object, and why it is there."""

from __future__ import annotations

from textwrap import fill

from msgspec import Struct

from ext_authz.render.endpoints import Json
from ext_authz.render.text import as_yaml

NAME = "tollgate"
"""Of the objects that are ours alone; an object about a workload has the name of its Service."""

GATEWAY_API = "gateway.networking.k8s.io"
"""The group of the Gateway API, which has a kind Gateway, too."""

_VERSIONS = {
    "HTTPRoute": f"{GATEWAY_API}/v1",
    "GRPCRoute": f"{GATEWAY_API}/v1",
    "ReferenceGrant": f"{GATEWAY_API}/v1beta1",
    "AuthorizationPolicy": "security.istio.io/v1",
    "PeerAuthentication": "security.istio.io/v1",
    "RequestAuthentication": "security.istio.io/v1",
    "DestinationRule": "networking.istio.io/v1",
    "Telemetry": "telemetry.istio.io/v1",
    "EnvoyFilter": "networking.istio.io/v1alpha3",
    "Gateway": "networking.istio.io/v1",
    "Service": "v1",
    "ServiceEntry": "networking.istio.io/v1",
    "VirtualService": "networking.istio.io/v1",
}


class Manifest(Struct, frozen=True):
    path: str
    why: str
    """Written into the file as a comment."""
    content: Json

    def text(self) -> str:
        comment = fill(self.why, 120, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)
        return f"{comment}\n{as_yaml(self.content)}"


def manifest(number: int, kind: str, name: str, namespace: str, spec: Json, *, why: str, api: str = "") -> Manifest:
    """`number`: its place on the way of a request, and so in the names of the files and in the order to apply them."""
    content = {
        "apiVersion": api or _VERSIONS[kind],
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace, "labels": {"app.kubernetes.io/part-of": NAME}},
        "spec": spec,
    }
    return Manifest(f"{number}-{kind.lower()}-{name}.yaml", why, content)
