"""A real API server with its etcd on this machine, alone: it admits and validates, and nothing runs."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import yaml
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.k8s.programs import HELM, TOOLS, Object, run

_TOKEN = "administrator"
_SECONDS = 90


class ApiServer:
    def __init__(self, kubeconfig: Path) -> None:
        self._kubeconfig = kubeconfig

    def kubectl(self, *arguments: str | Path, stdin: str | None = None) -> str:
        return run("kubectl", "--kubeconfig", self._kubeconfig, *arguments, stdin=stdin)

    def helm(self, command: str, *arguments: str | Path) -> str:
        return run(HELM, command, *arguments, "--kubeconfig", self._kubeconfig)

    def create_namespace(self, name: str, **labels: str) -> None:
        self.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}])

    def apply(self, items: list[Object], *options: str) -> str:
        """`--dry-run=server` validates and admits, and keeps nothing."""
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
        return self.kubectl("apply", "--server-side", "--validate=strict", *options, "-f", "-", stdin=text)


@contextmanager
def api_server(directory: Path) -> Iterator[ApiServer]:
    etcd, peer, port = _free_ports(3)
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    account = directory / "accounts.key"
    account.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()))
    (directory / "tokens.csv").write_text(f'{_TOKEN},admin,admin,"system:masters"\n')
    with ExitStack() as started:
        client, own = f"http://127.0.0.1:{etcd}", f"http://127.0.0.1:{peer}"
        started.enter_context(
            _process(
                directory,
                "etcd",
                *("--data-dir", directory / "etcd", "--unsafe-no-fsync", "--log-level", "warn"),
                *("--listen-client-urls", client, "--advertise-client-urls", client, "--listen-peer-urls", own),
                *("--initial-advertise-peer-urls", own, "--initial-cluster", f"default={own}"),
            )
        )
        server = started.enter_context(
            _process(
                directory,
                "kube-apiserver",
                *("--etcd-servers", client, "--bind-address", "127.0.0.1", "--secure-port", f"{port}"),
                *("--authorization-mode", "RBAC", "--token-auth-file", directory / "tokens.csv"),
                *("--disable-admission-plugins", "ServiceAccount", "--endpoint-reconciler-type", "none"),
                *("--service-account-issuer", "https://kubernetes.default.svc", "--cert-dir", directory),
                *("--service-account-signing-key-file", account, "--service-account-key-file", account),
                *("--service-cluster-ip-range", "10.96.0.0/16"),
            )
        )
        ready = ApiServer(_write_kubeconfig(directory, port))
        _wait_until_ready(ready, server, directory / "kube-apiserver.log")
        yield ready


def _free_ports(count: int) -> list[int]:
    with ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [int(each.getsockname()[1]) for each in sockets]


@contextmanager
def _process(directory: Path, name: str, *options: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    with (directory / f"{name}.log").open("wb") as log:
        process = subprocess.Popen([TOOLS / name, *options], stdout=log, stderr=log, cwd=directory)
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def _write_kubeconfig(directory: Path, port: int) -> Path:
    cluster = {"server": f"https://127.0.0.1:{port}", "certificate-authority": str(directory / "apiserver.crt")}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": {"token": _TOKEN}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    path = directory / "kubeconfig"
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(config))
    return path


def _wait_until_ready(server: ApiServer, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _SECONDS
    while True:
        try:
            server.kubectl("get", "--raw", "/readyz")
        except AssertionError as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(
                    f"kube-apiserver is not ready: {log.read_text(errors='replace')[-2000:]}"
                ) from error
            time.sleep(0.2)
        else:
            return
