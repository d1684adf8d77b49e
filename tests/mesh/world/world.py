"""The whole world: gateway, two authorizers, Triton and an intruder, each a pod, with the stores of `tollgate up`."""

from __future__ import annotations

import fcntl
import os
import shutil
import ssl
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import yaml

from devstack.stack.stack import Stack, running_stack
from ext_authz.render.endpoints import Address, Pipe
from tests.e2e.render.world import Model
from tests.http_server import serving_files
from tests.mesh.world import network, objects
from tests.mesh.world.api_server import ROOT
from tests.mesh.world.istiod import ControlPlane
from tests.mesh.world.network import Namespace, Process, run, wait_until
from tests.mesh.world.pods import Pod, copy_programs
from tests.mesh.world.relays import Relays
from tests.tokens import RSA, jwks

POLICY = Path(__file__).with_name("policy.yaml")
AUTHORIZERS = ("tollgate-0", "tollgate-1")
_PODS = {
    "gateway": ("istio-ingress", "istio-ingress", "istio-ingress", {"istio": "ingress"}),
    "tollgate-0": ("tollgate", "tollgate", "tollgate", {}),
    "tollgate-1": ("tollgate", "tollgate", "tollgate", {}),
    "triton": ("triton", "models", "triton", {"variant": "stable"}),
    "canary": ("triton", "models", "triton", {"variant": "canary"}),
    "intruder": ("intruder", "models", "intruder", {}),
}
"""App, namespace, account and labels. The intruder is a member of the mesh, beside Triton."""
_SERVICES = {
    "istio-ingress": ("istio-ingress", {"https": (443, 8443)}, ["gateway"]),
    "tollgate": ("tollgate", {"grpc": (9000, 9000)}, list(AUTHORIZERS)),
    "triton": ("models", {"http": (8000, 8000), "grpc": (8001, 8001)}, ["triton", "canary"]),
}
"""Namespace, ports and pods."""


class World:
    def __init__(self, directory: Path, stack: Stack, relays: Relays, keys: int) -> None:
        self.directory = directory
        self.stack = stack
        self._keys = keys
        self.canary = Model("canary")
        """What the pod of that name serves: it keeps what reached it, which Triton does not."""
        self._relays = relays
        self.control = ControlPlane(directory)
        self.pods: dict[str, Pod] = {}
        self.authorizers: dict[str, Process] = {}
        self.ca = directory / "ca.crt"
        """Which the gateway's certificate is of."""
        self.port = 0
        """Of the gateway, on this machine's loopback."""

    def start(self) -> None:
        _report("etcd, kube-apiserver, istiod")
        self.control.start()
        _report("pods")
        copy_programs(self.control, self.directory)
        for number, name in enumerate(_PODS, 10):
            self._write_pod(name, f"10.77.0.{number}")
        for name in _SERVICES:
            self._write_service(name)
        gateway = self.pods["gateway"].network.address
        self.port = self._relays.add("", "127.0.0.1", 0, (self.control.network.name, gateway, 8443))
        self.control.apply(*objects.may_read_secrets("istio-ingress", "istio-ingress"))
        self.write_certificate()
        self._serve_models()
        for name in AUTHORIZERS:
            self._reach_stores(name)
            self.write_policy(name, POLICY.read_text())
            self.start_authorizer(name)
        _report("agents")
        for name, pod in self.pods.items():
            pod.start_agent(self.control, "router" if name == "gateway" else "sidecar")

    def render(self, policy: Path = POLICY) -> Path:
        """Where `tollgate policy render istio` wrote; its part of the mesh configuration is in force."""
        out = self.directory / "istio"
        shutil.rmtree(out, ignore_errors=True)
        variables = (f"{name}={value}" for name, value in self._variables().items())
        run("env", *variables, sys.executable, "-m", "ext_authz", "policy", "render", "istio", policy, "--out", out)
        (mesh,) = (out / "istiod").iterdir()
        self.control.configure_mesh(yaml.safe_load(mesh.read_text())["meshConfig"])
        return out

    def wait_ready(self) -> None:
        """A gateway listens when an object selects it."""
        for name, pod in self.pods.items():
            _report(f"agent of {name}")
            pod.wait_ready()

    def start_authorizer(self, name: str) -> None:
        pod = self.pods[name]
        environment = self._variables() | {
            "TOLLGATE_POLICY": str(pod.directory / "policy" / "policy.yaml"),
            "TOLLGATE_LISTEN_HOST": "0.0.0.0",
            "TOLLGATE_LISTEN_PORT": "9000",
            "TOLLGATE_ADMIN_PORT": "9001",
            "TOLLGATE_ADMIN_SOCKET": str(pod.directory / "admin.sock"),
            "TOLLGATE_REPLICA": name,
            "TOLLGATE_DRAIN_DELAY": "2",
            "HOME": str(pod.directory),
        }
        command = [sys.executable, "-m", "ext_authz", "serve"]
        process = pod.network.start(command, pod.directory / "serve.log", environment, ROOT)
        ready = "http://127.0.0.1:9001/readyz"
        process.wait_until(f"{name} is ready", lambda: pod.network.run("curl", "-fsS", ready))
        self.authorizers[name] = process

    def replace_authorizer(self, name: str) -> None:
        """As a Deployment rolls: a terminating pod gets no new calls, and the new one gets them when it is ready."""
        self.set_endpoints("tollgate", [other for other in AUTHORIZERS if other != name])
        self.authorizers[name].terminate(60)
        self.start_authorizer(name)
        self.set_endpoints("tollgate", list(AUTHORIZERS))

    def write_policy(self, name: str, text: str) -> None:
        """As kubelet updates a ConfigMap: a new directory, and `..data` replaced by one rename."""
        directory = self.pods[name].directory / "policy"
        version = directory / f"..{time.time_ns()}"
        version.mkdir(parents=True)
        (version / "policy.yaml").write_text(text)
        link = directory / "..data_tmp"
        link.symlink_to(version.name)
        link.replace(directory / "..data")
        if not (directory / "policy.yaml").is_symlink():
            (directory / "policy.yaml").symlink_to("..data/policy.yaml")

    def _variables(self) -> dict[str, str]:
        return self.stack.variables | {
            "TOLLGATE_PUBLIC_URL": self.url,
            "MESH_PROOF_KEYS": f"http://127.0.0.1:{self._keys}/jwks.json",
        }

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"

    def write_certificate(self) -> None:
        """Of the gateway: a new one."""
        self.control.apply(objects.certificate("tollgate-tls", "istio-ingress", self.directory))

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, verify=ssl.create_default_context(cafile=self.ca), timeout=30)

    def token(self, user: str) -> str:
        form = {"grant_type": "password", "client_id": "web-app", "username": user, "password": user}
        url = f"{self.stack.addresses.issuer}/protocol/openid-connect/token"
        return str(httpx.post(url, data=form).raise_for_status().json()["access_token"])

    def set_endpoints(self, service: str, pods: list[str]) -> None:
        namespace, ports, _ = _SERVICES[service]
        addresses = [(pod, self.pods[pod].network.address) for pod in pods]
        self.control.apply(objects.endpoints(service, namespace, ports, addresses))

    def _write_pod(self, name: str, address: str) -> None:
        app, namespace, account, labels = _PODS[name]
        self.control.apply(objects.namespace(namespace), objects.account(account, namespace))
        directory = self.directory / name
        directory.mkdir()
        pod = Pod(name, app, namespace, account, Namespace(name, address), directory, labels)
        pod.write(self.control)
        self.pods[name] = pod

    def _write_service(self, name: str) -> None:
        namespace, ports, pods = _SERVICES[name]
        selector = {"istio": "ingress"} if name == "istio-ingress" else {"app": name}
        self.control.apply(objects.service(name, namespace, selector, ports))
        self.set_endpoints(name, pods)

    def _serve_models(self) -> None:
        triton = self.stack.addresses.triton
        for port, pipe, served in (
            (8000, triton.http, self.canary.place.http),
            (8001, triton.grpc, self.canary.place.grpc),
        ):
            assert isinstance(pipe, Pipe)
            assert isinstance(served, Address)
            self._relays.add(self.pods["triton"].network.name, "0.0.0.0", port, pipe.path)
            self._relays.add(self.pods["canary"].network.name, "0.0.0.0", port, ("", served.host, served.port))

    def _reach_stores(self, name: str) -> None:
        """Stores and issuer, at the addresses that they have on this machine."""
        addresses = self.stack.addresses
        urls = (addresses.database_url, addresses.redis_url, addresses.issuer)
        for port in (self._keys, *(urlsplit(url).port for url in urls)):
            assert port
            self._relays.add(self.pods[name].network.name, "127.0.0.1", port, ("", "127.0.0.1", port))


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
                with world.canary.running():
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
