"""The whole world: gateway, two authorizers, Triton and an intruder, each a pod, with the stores of `tollgate up`."""

from __future__ import annotations

import fcntl
import os
import shutil
import ssl
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import yaml

from devstack.stack.stack import Stack, running_stack
from ext_authz.render.endpoints import Address, Pipe
from tests.e2e.hostile.upstream import Upstream
from tests.http_server import serving_files
from tests.mesh.world import network, objects
from tests.mesh.world.istiod import ControlPlane
from tests.mesh.world.network import BRIDGE, Namespace, run, wait_until
from tests.mesh.world.pods import Json, Pod, copy_programs
from tests.mesh.world.relays import Relays
from tests.mesh.world.release import GATEWAY, MODELS, NAME, NAMESPACE, Release
from tests.tokens import RSA, jwks

POLICY = Path(__file__).with_name("policy.yaml")
_DEPLOYMENTS = {
    f"{NAME}-triton-stable": (MODELS, 1),
    f"{NAME}-triton-canary": (MODELS, 1),
    f"{NAME}-usage-worker": (NAMESPACE, 1),
    NAME: (NAMESPACE, 2),
}
"""Namespace and replicas."""
_INTRUDER = {
    "metadata": {"labels": {"app": "intruder"}},
    "spec": {"serviceAccountName": "intruder", "containers": [{"name": "app", "image": "none"}]},
}
"""A member of the mesh, beside Triton."""
_STORES = {"tollgate-database": ("database_url", 5432), "tollgate-redis": ("redis_url", 6379)}
"""Secret to the stack's address and the usual port, which the chart's NetworkPolicy names."""


class World:
    def __init__(self, directory: Path, stack: Stack, relays: Relays, keys: int) -> None:
        self.directory = directory
        self.stack = stack
        self._keys = keys
        self.canary = Upstream()
        """What the pod of that name serves: it keeps what reached it, which Triton does not."""
        self._relays = relays
        self.control = ControlPlane(directory)
        self.release = Release(self.control, directory)
        self.pods: dict[str, Pod] = {}
        self._addresses = (f"10.77.0.{number}" for number in count(10))
        self._numbers = count(_DEPLOYMENTS[NAME][1])
        self.ca = directory / "ca.crt"
        """Which the gateway's certificate is of."""
        self.port = 0
        """Of the gateway, on this machine's loopback."""

    @property
    def authorizers(self) -> list[str]:
        """The names of their pods."""
        return [name for name, pod in self.pods.items() if pod.labels.get("app") == NAME]

    @property
    def triton(self) -> Pod:
        return self.pods[f"{NAME}-triton-stable-0"]

    @property
    def gateway(self) -> Pod:
        return self.pods[f"{GATEWAY}-0"]

    def start(self) -> None:
        _report("etcd, kube-apiserver, istiod")
        self.control.start()
        copy_programs(self.control, self.directory)
        self.control.apply(*map(objects.namespace, (NAMESPACE, MODELS, GATEWAY)))
        self._open_stores()
        _report("gateway")
        self.release.install_gateway()
        (admitted,) = self.release.pods(GATEWAY, GATEWAY, [0])
        gateway = self._add(admitted)
        gateway.start_proxy()
        self.port = self._relay(gateway)
        self.write_certificate()
        _report("release")
        for job in self.release.install(POLICY, self.variables):
            self._run_job(job)
        pods = [
            self._add(admitted)
            for name, (namespace, replicas) in _DEPLOYMENTS.items()
            for admitted in self.release.pods(name, namespace, range(replicas))
        ]
        self.control.apply(objects.account("intruder", MODELS))
        pods.append(self._add(self.release.create_pod(_INTRUDER, "intruder", MODELS)))
        for pod in pods:
            pod.start_proxy()
        for pod in pods:
            self._start_app(pod)

    def close(self) -> None:
        """Ends what runs in its namespaces."""
        for each in (*(pod.network for pod in self.pods.values()), self.control.network):
            each.stop()

    def apply_rendered(self, *options: str, kind: str = "istio") -> None:
        """What `tollgate policy render istio` wrote; its part of the mesh configuration is in force."""
        self.remove_rendered()
        out = self.release.render(self.variables, kind, *options)
        (mesh,) = (out / "istiod").iterdir()
        self.control.configure_mesh(yaml.safe_load(mesh.read_text())["meshConfig"])
        self.control.kubectl("apply", "-f", out)

    def remove_rendered(self) -> None:
        if self.release.rendered.is_dir():
            self.control.kubectl("delete", "-f", self.release.rendered)

    def add_gateway(self, deployment: str) -> int:
        """A pod of what istiod made for a Gateway of the Gateway API: its port, on this machine's loopback."""
        wait_until(f"istiod makes {deployment}", lambda: self.control.read("deployment", deployment, GATEWAY))
        (admitted,) = self.release.pods(deployment, GATEWAY, [0])
        pod = self._add(admitted)
        pod.start_proxy()
        pod.wait_ready()
        self.publish_all()
        return self._relay(pod)

    def remove_gateway(self, deployment: str) -> None:
        self.pods.pop(f"{deployment}-0").kill_proxy()

    def _relay(self, gateway: Pod) -> int:
        return self._relays.add("", "127.0.0.1", 0, (self.control.network.name, gateway.network.address, 443))

    def wait_ready(self) -> None:
        """A gateway listens when an object selects it."""
        for name, pod in self.pods.items():
            _report(name)
            pod.wait_ready()
        self.publish_all()

    def publish_all(self) -> None:
        for namespace in (GATEWAY, NAMESPACE, MODELS):
            names = self.control.kubectl("get", "services", "-n", namespace, "-o", "jsonpath={.items[*].metadata.name}")
            for service in names.split():
                self.release.publish(service, namespace, self.pods.values())

    def publish(self, pods: Iterable[str]) -> None:
        """The authorizer's Service has these pods alone."""
        self.release.publish(NAME, NAMESPACE, [self.pods[name] for name in pods])

    def add_authorizer(self) -> Pod:
        """One more, which is ready."""
        (admitted,) = self.release.pods(NAME, NAMESPACE, [next(self._numbers)])
        pod = self._add(admitted)
        pod.start_proxy()
        self._start_app(pod)
        pod.wait_ready()
        self.publish_all()
        return pod

    def remove_authorizer(self, name: str) -> Pod:
        """It ends after this: its endpoint is removed while it drains, as nothing says which comes first."""
        pod = self.pods.pop(name)
        pod.terminate()
        self.publish_all()
        return pod

    @property
    def variables(self) -> dict[str, str]:
        """Of the policy."""
        return {
            "MESH_PROOF_ISSUER": self.stack.addresses.issuer,
            "MESH_PROOF_KEYS": f"http://127.0.0.1:{self._keys}/jwks.json",
        }

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"

    def write_certificate(self) -> None:
        """Of the gateway: a new one."""
        self.control.apply(objects.certificate("tollgate-tls", GATEWAY, self.directory))

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, verify=ssl.create_default_context(cafile=self.ca), timeout=30)

    def token(self, user: str) -> str:
        form = {"grant_type": "password", "client_id": "web-app", "username": user, "password": user}
        url = f"{self.stack.addresses.issuer}/protocol/openid-connect/token"
        return str(httpx.post(url, data=form).raise_for_status().json()["access_token"])

    def _add(self, admitted: Json) -> Pod:
        name = admitted["metadata"]["name"]
        directory = self.directory / name
        directory.mkdir()
        pod = Pod(self.control, Namespace(name, next(self._addresses)), directory, admitted)
        self.pods[name] = pod
        return pod

    def _start_app(self, pod: Pod) -> None:
        """When the sidecar is ready (`holdApplicationUntilProxyStarts`); for Triton stand the stack's model servers."""
        pod.wait_for_proxy()
        if pod.labels["app"] == f"{NAME}-triton":
            self._serve_models(pod)
        elif pod.name != "intruder":
            self._reach_issuers(pod)
            pod.start_app()

    def _run_job(self, name: str) -> None:
        template = self.control.read("job", name, NAMESPACE)["spec"]["template"]
        pod = self._add(self.release.create_pod(template, f"{name}-0", NAMESPACE))
        code = pod.start_app().wait(60)
        assert code == 0, (pod.directory / "app.log").read_text()
        pod.report("Succeeded")
        del self.pods[pod.name]
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        done = [{"type": kind, "status": "True"} for kind in ("SuccessCriteriaMet", "Complete")]
        status = {"startTime": now, "completionTime": now, "succeeded": 1, "conditions": done}
        self.control.set_status("job", name, NAMESPACE, status)

    def _open_stores(self) -> None:
        for secret, (store, port) in _STORES.items():
            url = urlsplit(getattr(self.stack.addresses, store))
            assert url.port
            self._relays.add(self.control.network.name, BRIDGE, port, ("", "127.0.0.1", url.port))
            there = url.geturl().replace(f"{url.hostname}:{url.port}", f"{BRIDGE}:{port}")
            self.control.apply(objects.secret(secret, NAMESPACE, there))

    def _serve_models(self, pod: Pod) -> None:
        triton, canary = self.stack.addresses.triton, self.canary.place
        for port, pipe, served in ((8000, triton.http, canary.http), (8001, triton.grpc, canary.grpc)):
            assert isinstance(pipe, Pipe)
            assert isinstance(served, Address)
            is_canary = pod.labels["variant"] == "canary"
            target = ("", served.host, served.port) if is_canary else pipe.path
            self._relays.add(pod.network.name, "0.0.0.0", port, target)

    def _reach_issuers(self, pod: Pod) -> None:
        """At the addresses that they have on this machine: plain HTTP is for loopback alone."""
        for port in (self._keys, urlsplit(self.stack.addresses.issuer).port):
            assert port
            self._relays.add(pod.network.name, "127.0.0.1", port, ("", "127.0.0.1", port))


@contextmanager
def running_world() -> Iterator[World]:
    """One at a time on a machine. What a killed one left is removed first, and everything at the end.

    With MESH_PROOF_KEEP in the environment, logs and configuration stay until the next one.
    """
    with Path("/run/tollgate-mesh.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        network.remove_all()
        for left in Path(tempfile.gettempdir()).glob(f"{network.PREFIX}*"):
            shutil.rmtree(left)
        directory = Path(tempfile.mkdtemp(prefix=network.PREFIX))
        directory.chmod(0o755)
        relays = Relays()
        try:
            _report("stores, issuer and models")
            keys = directory / "keys"
            keys.mkdir()
            (keys / "jwks.json").write_bytes(jwks(RSA))
            with running_stack(directory / "stack") as stack, serving_files(keys) as port:
                world = World(directory, stack, relays, port)
                with world.canary.running(), closing(world):
                    world.start()
                    yield world
        finally:
            network.remove_all()
            relays.stop()
            if not os.environ.get("MESH_PROOF_KEEP"):
                shutil.rmtree(directory)
        wait_until("all namespaces are removed", lambda: network.PREFIX not in run("ip", "netns", "list"), 10)


def _report(starting: str) -> None:
    """pytest shows it while it waits."""
    if sys.__stderr__:
        sys.__stderr__.write(f"{time.strftime('%H:%M:%S')} {starting}\n")
