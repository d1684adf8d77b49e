"""What controllers of a cluster would write about pods, for an istiod without a cluster."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ext_authz.render.endpoints import Address, Json, Pipe

_TCP = {"protocol": "TCP"}


@dataclass(frozen=True, kw_only=True)
class Pod:
    name: str
    service: str
    """namespace/name, which is also its service account."""
    further_services: Sequence[str] = ()
    """In the same namespace, by name."""
    address: str
    ports: Mapping[str, int]
    labels: Mapping[str, str] = field(default_factory=dict)
    targets: Mapping[str, Address | Pipe] = field(default_factory=dict)
    """What its sidecar forwards its ports to; nothing listens at other ports."""
    has_sidecar: bool = True
    """Otherwise the same Envoy takes plain text for it."""


def gateway_service(full_name: str, selector: Mapping[str, str]) -> Json:
    namespace, _, name = full_name.partition("/")
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"selector": dict(selector), "ports": [{"name": "http2", "port": 80, "targetPort": "http2"} | _TCP]},
    }


def objects_of(pod: Pod) -> Iterator[Json]:
    """The pod, and its part of the endpoints of its service."""
    namespace, _, service = pod.service.partition("/")
    metadata = {"name": pod.name, "namespace": namespace}
    ports = [{"name": name, "containerPort": port} | _TCP for name, port in pod.ports.items()]
    yield {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {**metadata, "labels": {"app": service, **pod.labels}},
        "spec": {"serviceAccountName": service, "containers": [{"name": "app", "ports": ports}]},
        "status": {
            "phase": "Running",
            "podIP": pod.address,
            "podIPs": [{"ip": pod.address}],
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }
    target = {"kind": "Pod", **metadata}
    for of in (service, *pod.further_services):
        labels = {"kubernetes.io/service-name": of}
        yield {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": f"{pod.name}-{of}", "namespace": namespace, "labels": labels},
            "addressType": "IPv4",
            "ports": [{"name": name, "port": port} | _TCP for name, port in pod.ports.items()],
            "endpoints": [{"addresses": [pod.address], "conditions": {"ready": True}, "targetRef": target}],
        }
