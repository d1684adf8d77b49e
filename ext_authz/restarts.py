"""What ends on its own is started again, each time a little later, and not for ever."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from ext_authz.clock import Clock, SystemClock
from ext_authz.db.backoff import pause
from ext_authz.errors import TollgateError
from ext_authz.observability.metrics import RESTARTS

log = logging.getLogger(__name__)

MOST = 5
WITHIN = 600.0
"""Seconds. Whatever ends more than MOST times in that time does not heal by being started again."""
_SHORTEST, _LONGEST = 0.1, 3.0
"""Seconds between an end and the next start."""


class GivenUp(TollgateError):
    """Started again too often. The message says what ended last, and why."""


class Restarts:
    """Of one thing."""

    def __init__(self, name: str, clock: Clock | None = None) -> None:
        """`name` is a label of a metric: one of few."""
        self._name = name
        RESTARTS.labels(name)
        self._clock = clock or SystemClock()
        self._ends: list[float] = []

    def next(self, why: str) -> float:
        """Seconds until the next start.

        Raises:
            GivenUp: it has ended too often.
        """
        now = self._clock.monotonic()
        self._ends = [*(end for end in self._ends if now - end < WITHIN), now]
        if len(self._ends) > MOST:
            raise GivenUp(f"{why}, and it was the end number {len(self._ends)} within {WITHIN / 60:.0f} minutes")
        seconds = float(min(_SHORTEST * 3 ** (len(self._ends) - 1), _LONGEST))
        RESTARTS.labels(self._name).inc()
        log.error("started again", extra={"kind": self._name, "detail": why, "seconds": seconds})
        return seconds


async def restarting(name: str, work: Callable[[], Awaitable[None]], stop: asyncio.Event) -> None:
    """Run `work` until `stop`. It catches what it expects; what it does not expect is a bug, logged here.

    Raises:
        GivenUp: it fails, or ends by itself, too often.
    """
    restarts = Restarts(name)
    while not stop.is_set():
        try:
            await work()
            why = f"{name} ended"
        except Exception as bug:
            log.exception("a task failed", extra={"kind": name})
            why = f"{name} failed: {type(bug).__name__}: {bug}"
        if not stop.is_set():
            await pause(stop, restarts.next(why))
