"""The control plane of the mesh: istiod beside the API server, with Istio's own chart for its accounts and webhooks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from tests.mesh.world.api_server import ISTIOD, TOOLS, ApiServer
from tests.mesh.world.network import BRIDGE, Namespace, run, wait_until

_SERVICE = "10.96.0.15"
_NAMESPACE = ["--namespace", "istio-system"]
_MESH: dict[str, Any] = {
    "accessLogFile": "/dev/stdout",
    "defaultProviders": {},  # telemetry needs extensions of Istio's own build of Envoy
    "defaultConfig": {"discoveryAddress": "istiod.istio-system.svc:15012"},
}


class ControlPlane(ApiServer):
    def __init__(self, directory: Path) -> None:
        super().__init__(directory, Namespace("control", BRIDGE))
        self._mesh_config = directory / "mesh.yaml"

    def start(self) -> None:
        super().start()
        self._install_istio()
        self.configure_mesh({})
        self.start_istiod()

    def configure_mesh(self, extra: dict[str, Any]) -> None:
        """istiod reads it again when it changes."""
        new = self._mesh_config.with_suffix(".new")
        new.write_text(yaml.safe_dump(_MESH | extra))
        new.replace(self._mesh_config)

    def analyze(self) -> list[dict[str, Any]]:
        """What `istioctl analyze` finds in the whole cluster."""
        options: list[str | Path] = ["--all-namespaces", "--kubeconfig", self.kubeconfig, "--output", "json"]
        found: list[dict[str, Any]] = json.loads(self.network.run(TOOLS / "istioctl", "analyze", *options))
        return found

    def root_certificate(self, namespace: str) -> str:
        name = "istio-ca-root-cert"
        wait_until(f"istiod writes its CA into {namespace}", lambda: self.read("configmap", name, namespace))
        return str(self.read("configmap", name, namespace)["data"]["root-cert.pem"])

    def _install_istio(self) -> None:
        charts = self.istio / "manifests" / "charts"
        self.kubectl("create", "namespace", "istio-system")
        self.kubectl("label", "namespace", "default", "istio-injection=disabled")
        text = run(TOOLS / "helm", "template", "istiod", charts / "istio-control" / "istio-discovery", *_NAMESPACE)
        webhook = "templates/defaultrevision-validatingwebhookconfiguration.yaml"  # for objects without a revision
        base: list[str | Path] = ["base", charts / "base", "--set", "defaultRevision=default", "--show-only", webhook]
        text += "---\n" + run(TOOLS / "helm", "template", *base, *_NAMESPACE)
        left_out = ("Deployment", "HorizontalPodAutoscaler", "PodDisruptionBudget")
        items = [item for item in yaml.safe_load_all(text) if item and item["kind"] not in left_out]
        for item in items:
            if item["kind"] == "Service":
                item["spec"]["clusterIP"] = _SERVICE
        self.apply(*items)
        # In place of kube-proxy: the API server calls the webhooks by their Service.
        to = ["-d", _SERVICE, "-p", "tcp", "--dport", "443", "-j", "DNAT", "--to", f"{BRIDGE}:15017"]
        self.network.run("iptables", "-t", "nat", "-A", "OUTPUT", *to)

    def start_istiod(self) -> None:
        kubeconfig = self.write_kubeconfig("istiod", ISTIOD)
        process = self.istiod = self.start_program(
            "pilot-discovery",
            ["discovery", "--kubeconfig", kubeconfig, "--meshConfig", self._mesh_config, "--domain", "cluster.local"],
            POD_NAME="istiod",
            POD_NAMESPACE="istio-system",
            SERVICE_ACCOUNT="istiod",
            REVISION="default",
            CLUSTER_ID="Kubernetes",
            PILOT_CERT_PROVIDER="istiod",
            # Both are extensions of Istio's own build of Envoy, and other builds refuse them.
            PILOT_ENABLE_ALPN_FILTER="false",
            PILOT_ENABLE_METADATA_EXCHANGE="false",
        )
        ready = "http://127.0.0.1:8080/ready"
        process.wait_until("istiod is ready", lambda: not self.network.run("curl", "-fsS", ready), 90)
        process.wait_until("istiod switches its webhooks on", self._webhooks_are_on)

    def _webhooks_are_on(self) -> bool:
        """When istiod has written its certificate into them, nothing passes without them."""
        kinds = "validatingwebhookconfigurations,mutatingwebhookconfigurations"
        found = json.loads(self.kubectl("get", kinds, "-o", "json"))["items"]
        webhooks = [webhook for one in found for webhook in one["webhooks"]]
        return all(one["failurePolicy"] == "Fail" and one["clientConfig"].get("caBundle") for one in webhooks)
