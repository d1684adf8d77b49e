"""`grpc-timeout`, honoured without a timer per call.

Envoy sends a timeout with every check, so the usual timer (made, armed, cancelled: several microseconds) would cost
every check something for the one in a million that runs late. Here a call is one entry in a dictionary, and one timer
per loop looks through it every 10 ms while there are calls in flight.
"""

from __future__ import annotations

import asyncio
from functools import lru_cache

from ext_authz.server.rpc import BAD_TIMEOUT

DEFAULT = b"10S"
"""For who names none: a call is one small message, and an answer that nobody waits for any more is none."""

TICK = 0.01
_MARGIN = 0.05
_EXPIRED = -1.0
_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}


@lru_cache(maxsize=1024)
def allowance(timeout: bytes) -> float:
    """Seconds that a `grpc-timeout` header (at most eight digits and a unit) leaves for the answer.

    A tenth less than the caller waits, 50 ms at most: an answer in time ends the stream, while a caller who gives up
    resets it, and 200 resets within 10 s make h2corn close the connection under everybody else's calls.
    """
    digits, unit = timeout[:-1], _UNITS.get(timeout[-1:])
    if unit is None or not (0 < len(digits) <= 8 and digits.isdigit()):
        raise BAD_TIMEOUT
    whole = int(digits) * unit
    return whole - min(_MARGIN, whole / 10)


class Deadlines:
    """Cancels tasks that are still running when their deadline has passed."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._watched: dict[asyncio.Task[None] | None, float] = {}
        self._sweeping = False

    def watch(self, timeout: bytes) -> asyncio.Task[None] | None:
        """Watch the current task until `forget` is called with what this returns."""
        task = asyncio.current_task()
        self._watched[task] = self._loop.time() + allowance(timeout)
        if not self._sweeping:
            self._sweeping = True
            self._loop.call_later(TICK, self._sweep)
        return task

    def expired(self, task: asyncio.Task[None] | None) -> bool:
        """Whether it was this deadline that cancelled the task. If so, the task counts as cancelled no longer."""
        late = self._watched.get(task) == _EXPIRED
        if late and task is not None:
            task.uncancel()
        return late

    def forget(self, task: asyncio.Task[None] | None) -> None:
        self._watched.pop(task, None)

    def _sweep(self) -> None:
        now = self._loop.time()
        for task, deadline in self._watched.items():
            if task is not None and _EXPIRED < deadline <= now:
                self._watched[task] = _EXPIRED
                task.cancel()
        self._sweeping = bool(self._watched)
        if self._sweeping:
            self._loop.call_later(TICK, self._sweep)
