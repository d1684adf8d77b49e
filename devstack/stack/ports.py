"""Ports are looked at before anything starts: a taken one is a sentence that names the setting which moves it."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from itertools import combinations

from devstack.stack.settings import StackSettings
from ext_authz.errors import ConfigError

LOOPBACK = "127.0.0.1"

_PATIENCE = 3.0
"""A killed process gives its ports back a moment after it is gone from sight."""
_PAUSE = 0.05


def ensure_free(settings: StackSettings, names: Iterable[str], patience: float = _PATIENCE) -> None:
    """`names` are settings such as `envoy_port`. What is just being let go is waited for, `patience` seconds.

    Raises:
        ConfigError: names every port that is taken, or claimed twice.
    """
    claimed = {name: int(getattr(settings, name)) for name in names}
    deadline = time.monotonic() + patience
    while (wrong := _doubles(claimed) + _taken(claimed)) and time.monotonic() < deadline:
        time.sleep(_PAUSE)
    if wrong:
        raise ConfigError("; ".join(wrong))


def _doubles(claimed: Mapping[str, int]) -> list[str]:
    return [
        f"{_variable(one)} and {_variable(other)} are both {claimed[one]}"
        for one, other in combinations(claimed, 2)
        if claimed[one] == claimed[other]
    ]


def _taken(claimed: Mapping[str, int]) -> list[str]:
    return [
        f"port {port} is taken: free it, or set {_variable(name)} to another one"
        for name, port in claimed.items()
        if not _is_free(port)
    ]


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
