"""A real API server, with etcd behind it and the CRDs of Istio and the Gateway API loaded: `running_api_server()`."""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.mesh.world.network import BRIDGE, SERVICES, Network, Process, run
from tests.services import free_port

ROOT = Path(__file__).parents[3]
TOOLS = ROOT / ".tools" / "mesh"
_MODULE = ROOT / "tests" / "mesh" / "go"
_ADMIN = "admin-of-the-mesh-proof"
ISTIOD = "istiod-of-the-mesh-proof"
"""A token of istiod's service account."""


def module_directory(module: str) -> Path:
    """Where Go keeps the module's sources, in the version of go.mod."""
    return Path(run("go", "-C", _MODULE, "list", "-m", "-f", "{{.Dir}}", module).strip())


class ApiServer:
    def __init__(self, directory: Path, network: Network) -> None:
        self.directory = directory
        self.network = network
        self._etcd = f"http://127.0.0.1:{free_port()}"
        self._port = free_port()
        self.kubeconfig = self.write_kubeconfig("admin", _ADMIN)
        self.istio = module_directory("istio.io/istio")

    def start(self) -> None:
        self._start_etcd()
        self._start_server()
        crds = self.istio / "manifests" / "charts" / "base" / "files" / "crd-all.gen.yaml"
        gateway_api = module_directory("sigs.k8s.io/gateway-api") / "config" / "crd" / "standard"
        for path in (crds, gateway_api):
            self.kubectl("apply", "--server-side", "-f", path)
        self.kubectl("wait", "--for=condition=Established", "--timeout=60s", "crd", "--all")

    def kubectl(self, *arguments: str | Path, stdin: str | None = None) -> str:
        return self.network.run("kubectl", "--kubeconfig", self.kubeconfig, *arguments, stdin=stdin)

    def apply(self, *objects: dict[str, Any]) -> None:
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=text)

    def read(self, kind: str, name: str, namespace: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.kubectl("get", kind, name, "-n", namespace, "-o", "json"))
        return found

    def secret(self, name: str, namespace: str) -> dict[str, str]:
        data = self.read("secret", name, namespace)["data"]
        return {key: base64.b64decode(value).decode() for key, value in data.items()}

    def set_status(self, kind: str, name: str, namespace: str, status: dict[str, Any]) -> None:
        text = json.dumps({"status": status})
        self.kubectl("patch", kind, name, "-n", namespace, "--subresource=status", "--type=merge", "-p", text)

    def start_program(self, name: str, arguments: list[str | Path], **environment: str) -> Process:
        given = {"HOME": str(self.directory), **environment}
        log = self.directory / f"{name}.log"
        return self.network.start([TOOLS / name, *arguments], log, given, self.directory)

    def write_kubeconfig(self, name: str, token: str) -> Path:
        cluster = {"server": f"https://127.0.0.1:{self._port}", "insecure-skip-tls-verify": True}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": cluster}],
            "users": [{"name": "u", "user": {"token": token}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }
        path = self.directory / f"{name}.kubeconfig"
        path.touch(0o600)
        path.write_text(yaml.safe_dump(config))
        return path

    def _start_etcd(self) -> None:
        url, peers = self._etcd, f"http://127.0.0.1:{free_port()}"
        options: list[str | Path] = [
            *("--listen-client-urls", url, "--advertise-client-urls", url),
            *(
                "--listen-peer-urls",
                peers,
                "--initial-advertise-peer-urls",
                peers,
                "--initial-cluster",
                f"default={peers}",
            ),
            *("--data-dir", self.directory / "etcd", "--log-level", "warn"),
            "--unsafe-no-fsync",  # what is in it is not needed after a crash
        ]
        process = self.start_program("etcd", options)
        process.wait_until("etcd answers", lambda: self.network.run("curl", "-fsS", f"{url}/health"))

    def _start_server(self) -> None:
        key, tokens = self.directory / "accounts.key", self.directory / "tokens.csv"
        run("openssl", "genrsa", "-out", key, "2048")
        istiod = "system:serviceaccount:istio-system:istiod"
        tokens.write_text(f'{_ADMIN},admin,admin,"system:masters"\n{ISTIOD},{istiod},istiod,"system:serviceaccounts"\n')
        options: list[str | Path] = [
            *("--etcd-servers", self._etcd, "--authorization-mode", "RBAC"),
            # No controllers run that would write accounts, and no address of this machine is to be announced.
            *("--disable-admission-plugins", "ServiceAccount", "--endpoint-reconciler-type", "none"),
            *("--token-auth-file", tokens, "--service-cluster-ip-range", SERVICES),
            *("--service-account-issuer", "https://kubernetes.default.svc"),
            *("--service-account-signing-key-file", key, "--service-account-key-file", key),
            *("--cert-dir", self.directory / "apiserver", "--advertise-address", BRIDGE),
            *("--bind-address", "127.0.0.1", "--secure-port", str(self._port)),
        ]
        process = self.start_program("kube-apiserver", options)
        process.wait_until("kube-apiserver is ready", lambda: self.kubectl("get", "--raw", "/readyz") == "ok", 120)


@contextmanager
def running_api_server() -> Iterator[ApiServer]:
    """Alone, on loopback; needs no root. Several may run at once."""
    network = Network()
    with tempfile.TemporaryDirectory(prefix="tollgate-api-") as directory:
        try:
            server = ApiServer(Path(directory), network)
            server.start()
            yield server
        finally:
            network.stop()
