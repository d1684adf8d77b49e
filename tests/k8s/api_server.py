"""A real API server with the definitions of all kinds in k8s/ and istio/: it admits and validates; nothing runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.k8s.definitions import definitions
from tests.k8s.programs import HELM, Object
from tests.mesh.world import api_server
from tests.mesh.world.network import run

RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}


class ApiServer:
    def __init__(self, server: api_server.ApiServer) -> None:
        self.kubectl = server.kubectl
        self.kubeconfig = server.kubeconfig

    def helm(self, command: str, *arguments: str | Path) -> str:
        return run(HELM, command, *arguments, "--kubeconfig", self.kubeconfig)

    def create_namespace(self, name: str, **labels: str) -> None:
        self.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}])

    def apply(self, items: list[Object], *options: str) -> str:
        """`--dry-run=server` validates and admits, and keeps nothing."""
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
        return self.kubectl("apply", "--server-side", "--validate=strict", *options, "-f", "-", stdin=text)


@contextmanager
def running_api_server() -> Iterator[ApiServer]:
    with api_server.running_api_server() as running:
        for path in definitions():
            running.kubectl("apply", "--server-side", "-f", path)
        running.kubectl("wait", "--for=condition=Established", "--timeout=60s", "crd", "--all")
        yield ApiServer(running)
