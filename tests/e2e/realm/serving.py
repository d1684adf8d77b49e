"""The embedded realm to test against: on a thread, or as a process."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import httpx
import psutil
import uvicorn

from devstack.realm.app import create_app
from devstack.realm.export import load_export
from ext_authz.clock import Clock
from tests.keycloak import EXPORT
from tests.services import free_port, wait_for


@contextmanager
def on_a_thread(state: Path, clock: Clock, export: Path = EXPORT, port: int = 0) -> Iterator[str]:
    """Our realm in this process, so that a test can own its clock; yields the base URL."""
    port = port or free_port()
    url = f"http://127.0.0.1:{port}"
    app = create_app(load_export(export), state, url, clock)
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_config=None, access_log=False))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_for(lambda: server.started)
        yield url
    finally:
        server.should_exit = True
        thread.join(10)


class RealmProcess:
    """`python -m devstack.realm`, as the stack starts it."""

    def __init__(self, state: Path, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-W", "error", "-m", "devstack.realm", "--realm", str(EXPORT)]
        where = ["--state", str(state), "--port", str(port)]
        self._process = subprocess.Popen([*command, *where], stderr=subprocess.PIPE, text=True)
        wait_for(lambda: self._process.poll() is not None or answers(self.url))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self.stop()

    def listens_on(self) -> set[tuple[str, int]]:
        sockets = psutil.Process(self._process.pid).net_connections("inet")
        return {(one.laddr.ip, one.laddr.port) for one in sockets if one.status == psutil.CONN_LISTEN}

    def stop(self) -> tuple[int, str]:
        """SIGTERM; its exit code and its log."""
        self._process.terminate()
        _, log = self._process.communicate(timeout=10)
        return self._process.returncode, log


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/realms/tollgate/.well-known/openid-configuration").is_success
    except httpx.TransportError:
        return False
