"""Objects that operators, cert-manager and the controllers of Kubernetes write in other clusters."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.mesh.world.network import run

Json = dict[str, Any]


def namespace(name: str) -> Json:
    labels = {"istio-injection": "enabled"}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def account(name: str, namespace: str) -> Json:
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": namespace}}


def secret(name: str, namespace: str, url: str) -> Json:
    """Of a store: what an operator writes, by the names of the chart's values."""
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {"url": url}}


def endpoints(service: str, namespace: str, ports: dict[str, int], pods: Iterable[tuple[str, str]]) -> Json:
    """`pods`: names and addresses."""
    labels = {"kubernetes.io/service-name": service}
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": service, "namespace": namespace, "labels": labels},
        "addressType": "IPv4",
        "ports": [{"name": name, "port": target, "protocol": "TCP"} for name, target in ports.items()],
        "endpoints": [
            {
                "addresses": [address],
                "conditions": {"ready": True, "serving": True, "terminating": False},
                "targetRef": {"kind": "Pod", "name": pod, "namespace": namespace},
            }
            for pod, address in pods
        ],
    }


def certificate(name: str, namespace: str, directory: Path) -> Json:
    """A Secret with a new certificate of `localhost`, issued by the CA in `directory`, which is made when missing."""
    ca, ca_key, key, chain = (directory / file for file in ("ca.crt", "ca.key", "tls.key", "tls.crt"))
    new = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    if not ca.exists():
        run(*new, "-subj", "/CN=mesh proof", "-keyout", ca_key, "-out", ca)
    leaf = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-addext", "basicConstraints=CA:FALSE"]
    run(*new, *leaf, "-CA", ca, "-CAkey", ca_key, "-keyout", key, "-out", chain)
    data = {path.name: base64.b64encode(path.read_bytes()).decode() for path in (key, chain)}
    meta = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": meta, "data": data}
