"""`serve` as a child process, with a fake service inside."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx
import psutil

from ext_authz.server.rpc import CHECK
from tests.services import free_port, wait_for

FAKES = "tests.e2e.server.fake_service"


@dataclass
class Serving:
    """One running `serve`."""

    directory: Path
    port: int
    admin_port: int
    admin_socket: Path
    process: subprocess.Popen[bytes]
    scratch: Path
    """Its TMPDIR."""

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text()

    def get(self, path: str) -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{self.admin_port}{path}")

    def ready(self) -> bool:
        assert self.process.poll() is None, self.log
        try:
            return self.get("/readyz").is_success
        except httpx.TransportError:
            return False

    def workers(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def call(self, message: bytes, seconds: float = 5.0, compression: grpc.Compression | None = None) -> bytes:
        """One check on a connection of its own."""
        with self.channel() as channel:
            return unary(channel)(message, timeout=seconds, compression=compression)

    def channel(self) -> grpc.Channel:
        # Without a pool of its own, a channel shares its connection with all others to this address.
        return grpc.insecure_channel(f"127.0.0.1:{self.port}", options=(("grpc.use_local_subchannel_pool", 1),))

    def set_down(self, text: str) -> None:
        """Which dependencies the fake service reports as down, as JSON."""
        partial = self.directory / "down.partial"
        partial.write_text(text)
        partial.replace(self.directory / "down.json")


def unary(channel: grpc.Channel, path: str = CHECK) -> grpc.UnaryUnaryMultiCallable[bytes, bytes]:
    """Bytes in, bytes out."""
    return channel.unary_unary(path)


def launch(directory: Path, server: str, **settings: object) -> Serving:
    """Start, and return at once. `settings` override the defaults; `factory` and `background` name the fakes, and
    `files` bounds the open files of each process."""
    factory, background = str(settings.pop("factory", "build")), str(settings.pop("background", ""))
    files = int(str(settings.pop("files", 0)))
    scratch = Path(str(settings.pop("scratch", tempfile.gettempdir())))
    (directory / "policy.yaml").touch()
    port, admin_port = free_port(), free_port()
    # Not in `scratch`, whose path may be too long for a socket.
    admin_socket = Path(tempfile.gettempdir()) / f"tg-admin-{admin_port}.sock"
    chosen = {
        "policy": directory / "policy.yaml",
        "database_url": "postgresql://nobody@127.0.0.1:1/none",
        "redis_url": "redis://127.0.0.1:1/0",
        "server": server,
        "listen_port": port,
        "admin_port": admin_port,
        "admin_socket": admin_socket,
        "drain_delay": 0.1,
        **settings,
    }
    variables = {f"TOLLGATE_{name.upper()}": str(value) for name, value in chosen.items() if value is not None}
    variables |= {"TMPDIR": str(scratch), "FAKE_DIRECTORY": str(directory)}
    command = [sys.executable, "-m", "tests.e2e.server.serve", f"{FAKES}:{factory}", *background.split()]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(command, env={**os.environ, **variables}, stderr=log)
    if files:
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (files, files))
    return Serving(
        directory, int(str(chosen["listen_port"])), int(str(chosen["admin_port"])), admin_socket, process, scratch
    )


@contextmanager
def serving(directory: Path, server: str, **settings: object) -> Iterator[Serving]:
    """Start, wait until ready, and see to it that nothing is left."""
    # Not in `directory`: the path of a Unix socket has an end, at 107 bytes.
    with tempfile.TemporaryDirectory(prefix="tg-") as scratch:
        started = launch(directory, server, scratch=scratch, **settings)
        try:
            wait_for(started.ready)
            yield started
        finally:
            workers = started.workers() if started.process.poll() is None else []
            started.process.kill()
            started.process.wait()
            psutil.wait_procs(workers, timeout=10)
