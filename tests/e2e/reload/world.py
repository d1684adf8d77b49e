"""`tollgate serve` with everything around it, a policy file that a test may change, and a caller who never stops."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import grpc
import httpx
import psutil

from ext_authz.db.migrate import migrate
from ext_authz.gen.tollgate.envoy.v3.external_auth_pb2 import CheckResponse
from ext_authz.server.rpc import CHECK
from tests import tokens
from tests.http_server import serving_files
from tests.requests import check_request
from tests.services import free_port, over, wait_for

OTHER_ISSUER = "https://other.example/realms/ml"


def policy(
    jwks: str,
    *,
    roles: str = "infer",
    issuers: tuple[str, ...] = (tokens.ISSUER,),
    leeway: int = 30,
    rate: int = 1_000_000,
) -> str:
    """One route to the model sentiment, open to `roles`."""
    listed = "".join(
        f"  - {{name: i{number}, issuer: {issuer}, jwks_url: {jwks}, audiences: [triton-gateway],"
        f" roles_client: triton-gateway, leeway: {leeway}s}}\n"
        for number, issuer in enumerate(issuers)
    )
    return f"""
version: 1
issuers:
{listed}
limits:
  user: {{key: [user], rate: {rate}/hour}}
models:
  sentiment: {{roles: [infer]}}
routes:
  - {{name: infer, path: "/v2/models/{{model}}/infer", methods: [POST], roles: [{roles}], limits: [user]}}
"""


class Serving:
    """One running `tollgate serve`."""

    def __init__(
        self, directory: Path, jwks: str, port: int, admin: int, admin_socket: Path, process: subprocess.Popen[bytes]
    ) -> None:
        self.directory = directory
        self.admin_socket = admin_socket
        self.jwks = jwks
        self.process = process
        self.port = port
        self._admin = admin
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}", options=(("grpc.use_local_subchannel_pool", 1),))
        self._check: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(CHECK)

    @property
    def log(self) -> list[dict[str, Any]]:
        lines = (self.directory / "log").read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def write(self, name: str = "policy.yaml", **changes: Any) -> None:  # noqa: ANN401 - those of `policy`
        """As `cp` does: into the file that is there."""
        (self.directory / name).write_text(policy(self.jwks, **changes))

    def replace(self, **changes: Any) -> None:  # noqa: ANN401 - those of `policy`
        """By another policy, in force at once. On a busy machine the watch takes it before the call can."""
        before = self.status()["hash"]
        self.write(**changes)
        assert self.reload().json()["policy"]["hash"] != before

    def check(self, token: str | None) -> CheckResponse:
        return CheckResponse.FromString(self.ask(check_request(token=token)))

    def ask(self, message: bytes) -> bytes:
        """One serialised CheckRequest, on the connection that all share."""
        return self._check(message, timeout=10)

    def get(self, path: str) -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{self._admin}{path}")

    def control(self, path: str, method: str = "GET") -> httpx.Response:
        """Over the socket."""
        with over(self.admin_socket) as client:
            return client.request(method, path)

    def reload(self) -> httpx.Response:
        return self.control("/policy/reload", "POST")

    def hangup(self) -> None:
        self.process.send_signal(signal.SIGHUP)

    def status(self, role: str = "policy") -> dict[str, Any]:
        found: dict[str, Any] = self.control("/policy").json()[role]
        return found

    def metric(self, sample: str) -> float:
        """The value of a sample, with its labels as the exposition writes them; 0 when it is not there."""
        for line in self.get("/metrics").text.splitlines():
            if line.startswith(f"{sample} "):
                return float(line.rpartition(" ")[2])
        return 0.0

    def ready(self) -> bool:
        assert self.process.poll() is None, (self.directory / "log").read_text()
        try:
            return self.get("/readyz").is_success
        except httpx.TransportError:
            return False

    def close(self) -> None:
        self._channel.close()


@contextmanager
def serving(
    directory: Path,
    redis_url: str,
    database_url: str,
    path: str = "policy.yaml",
    prepare: Callable[[str], None] | None = None,
    **settings: object,
) -> Iterator[Serving]:
    """Start on the policy at `directory / path`, which `prepare` writes, given the address of the keys."""
    asyncio.run(migrate(database_url))
    with launched(directory, redis_url, database_url, path, prepare, **settings) as started:
        wait_for(started.ready, 60)
        yield started


@contextmanager
def launched(
    directory: Path,
    redis_url: str,
    database_url: str,
    path: str = "policy.yaml",
    prepare: Callable[[str], None] | None = None,
    **settings: object,
) -> Iterator[Serving]:
    """As `serving`, over whatever the database is, and without waiting until it is ready."""
    with published_keys(directory) as jwks, tempfile.TemporaryDirectory(prefix="tg-") as scratch:
        if prepare:
            prepare(jwks)
        else:
            (directory / path).write_text(policy(jwks))
        port, admin, admin_socket = free_port(), free_port(), Path(scratch) / "admin.sock"
        chosen = {
            "policy": directory / path,
            "database_url": database_url,
            "redis_url": redis_url,
            "listen_port": port,
            "admin_port": admin,
            "admin_socket": admin_socket,
            "drain_delay": 0,
            "redis_timeout": 5,
            **settings,
        }
        arguments = ["--env-file", str(chosen.pop("env_file"))] if "env_file" in chosen else []
        environ = {f"TOLLGATE_{name.upper()}": str(value) for name, value in chosen.items()} | {"TMPDIR": scratch}
        with (directory / "log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "ext_authz", *arguments, "serve"], env=os.environ | environ, stderr=log
            )
        started = Serving(directory, jwks, port, admin, admin_socket, process)
        try:
            yield started
        finally:
            started.close()
            _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    workers = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.terminate()
    process.wait(30)
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert not alive


class Caller(threading.Thread):
    """Asks one thing again and again, and counts the answers."""

    def __init__(self, server: Serving, token: str) -> None:
        super().__init__()
        self.codes: Counter[int] = Counter()
        self.policies: Counter[str] = Counter()
        self.failed: list[Exception] = []
        self._server = server
        self._token = token
        self._over = threading.Event()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()

    def run(self) -> None:
        while not self._over.is_set():
            try:
                answer = self._server.check(self._token)
            except grpc.RpcError as failure:
                self.failed.append(failure)
                return
            self.codes[answer.status.code] += 1
            self.policies[answer.dynamic_metadata.fields["policy"].string_value] += 1


def token(**claims: object) -> str:
    """Good for an hour."""
    now = time.time()
    return tokens.mint({"exp": int(now) + 3600, **claims}, now=now)


@contextmanager
def published_keys(directory: Path) -> Iterator[str]:
    """The address of a key set, over plain HTTP; every GET is a line in `asked`."""
    published = directory / "keys"
    published.mkdir()
    (published / "jwks.json").write_bytes(tokens.jwks(tokens.RSA))
    with serving_files(published) as port:
        yield f"http://127.0.0.1:{port}/jwks.json"


def swap(mounted: Path, name: str, content: Mapping[str, str]) -> None:
    """As the kubelet updates a ConfigMap: a new directory, then `..data` leads there in one step."""
    (mounted / name).mkdir()
    for file, text in content.items():
        (mounted / name / file).write_text(text)
    (mounted / "..data_tmp").symlink_to(name)
    (mounted / "..data_tmp").replace(mounted / "..data")
    for file in content:
        if not (mounted / file).is_symlink():
            (mounted / file).symlink_to(f"..data/{file}")
