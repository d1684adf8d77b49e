"""`grpc-timeout`, honoured without a timer per call.

Envoy sends a timeout with every check, so the usual timer (made, armed, cancelled: about 3 microseconds) would cost
every check something for the one in a million that runs late. Here a call leaves one tuple in a list, and one timer
per loop walks that list every 10 ms while it is not empty.
"""

from __future__ import annotations

import asyncio

from ext_authz.server.rpc import BAD_TIMEOUT

TICK = 0.01
_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}


def seconds(timeout: bytes) -> float:
    """Parse a `grpc-timeout` header: at most eight digits and a unit."""
    digits, unit = timeout[:-1], _UNITS.get(timeout[-1:])
    if unit is None or not (0 < len(digits) <= 8 and digits.isdigit()):
        raise BAD_TIMEOUT
    return int(digits) * unit


class Deadlines:
    """Cancels tasks that are still running when their deadline has passed."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._watched: list[tuple[float, asyncio.Task[None]]] = []

    def watch(self, timeout: bytes) -> float:
        """Watch the current task, and say when its time is up (on the loop's clock)."""
        deadline = self._loop.time() + seconds(timeout)
        task = asyncio.current_task()
        if task is not None:
            if not self._watched:
                self._loop.call_later(TICK, self._sweep)
            self._watched.append((deadline, task))
        return deadline

    def passed(self, deadline: float) -> bool:
        return self._loop.time() >= deadline

    def _sweep(self) -> None:
        now = self._loop.time()
        running = [watched for watched in self._watched if not watched[1].done()]
        self._watched = [watched for watched in running if watched[0] > now]
        for deadline, task in running:
            if deadline <= now:
                task.cancel()
        if self._watched:
            self._loop.call_later(TICK, self._sweep)
