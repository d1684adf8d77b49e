"""Ports are looked at before anything starts: a taken one is a sentence that names the setting which moves it."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from contextlib import ExitStack

from ext_authz.errors import ConfigError
from ext_authz.stack.settings import StackSettings

LOOPBACK = "127.0.0.1"


def ensure_free(settings: StackSettings, names: Iterable[str]) -> None:
    """`names` are settings such as `envoy_port`.

    Raises:
        ConfigError: names every port that is taken, or claimed twice.
    """
    claimed: dict[int, str] = {}
    wrong = []
    for name in names:
        port = getattr(settings, name)
        if port in claimed:
            wrong.append(f"{_variable(name)} and {_variable(claimed[port])} are both {port}")
        elif not _is_free(port):
            wrong.append(f"port {port} is taken: free it, or set {_variable(name)} to another one")
        claimed[port] = name
    if wrong:
        raise ConfigError("; ".join(wrong))


def free_ports(count: int) -> list[int]:
    """Different ports on loopback that nobody listens on right now."""
    with ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind((LOOPBACK, 0))
        return [probe.getsockname()[1] for probe in probes]


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As servers do: connections that linger from an earlier run do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
            probe.listen()
        except OSError:
            return False
    return True


def _variable(name: str) -> str:
    return f"TOLLGATE_{name.upper()}"
