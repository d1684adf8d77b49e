"""The release on the API server: what `helm install` writes, and the pods and endpoints that controllers make of it.

In their place: a Deployment's pods are made once, a hook's Job is run when it appears, and the endpoints of a Service
are those of its ready pods when `publish` is called.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tests.k8s.programs import HELM, for_any_version
from tests.mesh.world.api_server import ROOT
from tests.mesh.world.istiod import ControlPlane
from tests.mesh.world.network import run, wait_until
from tests.mesh.world.objects import endpoints
from tests.mesh.world.pods import Pod

Json = dict[str, Any]

NAME = NAMESPACE = "tollgate"
MODELS = "models"
GATEWAY = "istio-ingress"
VALUES = Path(__file__).with_name("values.yaml")


class Release:
    def __init__(self, control: ControlPlane, directory: Path) -> None:
        self.control = control
        self.directory = directory
        self.rendered = directory / "istio"
        self._notes = ""

    def install_gateway(self) -> None:
        """By Istio's own chart."""
        chart = self.control.istio / "manifests" / "charts" / "gateway"
        self._helm("install", GATEWAY, chart, "--namespace", GATEWAY, "--set", "autoscaling.enabled=false")

    def install(self, policy: Path, variables: dict[str, str]) -> Iterator[str]:
        """Yields the name of each Job that it then waits for."""
        chart = for_any_version(self.directory)
        options: list[str | Path] = ["--values", VALUES, "--set-file", rf"policy.files.policy\.yaml={policy}"]
        options += [
            part for name, value in variables.items() for part in ("--set-string", f"policy.env.{name}={value}")
        ]
        yield from self._with_migration("install", NAME, chart, "--namespace", NAMESPACE, *options)

    def render(self, environment: dict[str, str], kind: str, *options: str) -> Path:
        """What the command in the notes of the release wrote, for `istio` or `gateway-api`, with these options too."""
        config_map = ["get", "configmap", f"{NAME}-policy", "-n", NAMESPACE, "-o", r"jsonpath={.data.policy\.yaml}"]
        (self.directory / "policy.yaml").write_text(self.control.kubectl(*config_map))
        notes = self._notes.replace("\\\n", "")
        (command,) = re.findall(r"^ *tollgate (policy render istio .* --out istio)$", notes, re.MULTILINE)
        shutil.rmtree(self.rendered, ignore_errors=True)
        variables = (f"{name}={value}" for name, value in environment.items())
        program = (
            sys.executable,
            "-m",
            "ext_authz",
            *shlex.split(command.replace(" istio ", f" {kind} ", 1)),
            *options,
        )
        run("env", "-C", self.directory, f"PYTHONPATH={ROOT}", *variables, *program)
        return self.rendered

    def pods(self, deployment: str, namespace: str, numbers: Iterable[int]) -> list[Json]:
        """As the controllers of Deployment and ReplicaSet make them."""
        template = self.control.read("deployment", deployment, namespace)["spec"]["template"]
        return [self.create_pod(template, f"{deployment}-{number}", namespace) for number in numbers]

    def create_pod(self, template: Json, name: str, namespace: str) -> Json:
        """As it was admitted: istiod's webhook adds the sidecar."""
        metadata = {**template["metadata"], "name": name, "namespace": namespace}
        spec = {**template["spec"], "nodeName": "node"}
        self.control.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
        return self.control.read("pod", name, namespace)

    def publish(self, service: str, namespace: str, pods: Iterable[Pod]) -> None:
        """As the controller of EndpointSlices does: the ready ones of those that the Service selects."""
        spec = self.control.read("service", service, namespace)["spec"]
        chosen = [
            one
            for one in pods
            if one.is_ready and one.namespace == namespace and spec["selector"].items() <= one.labels.items()
        ]
        numbers = {port["name"]: _number(port["targetPort"], chosen) for port in spec["ports"]} if chosen else {}
        addresses = [(one.name, one.network.address) for one in chosen]
        self.control.apply(endpoints(service, namespace, numbers, addresses))

    def _with_migration(self, *arguments: str | Path) -> Iterator[str]:
        """The name of the Job, when the API server has it; Helm goes on when its status says that it has ended."""
        command = [HELM, *arguments, "--kubeconfig", self.control.kubeconfig, "--timeout", "2m"]
        with (self.directory / "helm.log").open("w+") as log:
            helm = subprocess.Popen(self.control.network.entering(*command), stdout=log, stderr=log)
            job = ["get", "job", f"{NAME}-migration", "-n", NAMESPACE]
            wait_until("the migration's Job", lambda: helm.poll() is not None or self.control.kubectl(*job))
            if helm.poll() is None:
                yield f"{NAME}-migration"
            code = helm.wait(120)
            log.seek(0)
            self._notes = log.read()
        assert code == 0, self._notes

    def _helm(self, *arguments: str | Path) -> str:
        return self.control.network.run(HELM, *arguments, "--kubeconfig", self.control.kubeconfig)


def _number(port: int | str, pods: list[Pod]) -> int:
    if isinstance(port, int):
        return port
    return int(next(one["containerPort"] for one in pods[0].main["ports"] if one["name"] == port))
