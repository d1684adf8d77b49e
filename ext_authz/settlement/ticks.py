"""One timer for everything that is bounded by time, which knows how long this process was awake."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic

TICK = 0.01
"""Seconds between two looks while there is something to look after."""
HEARTBEAT = 1.0
"""Seconds between two looks while there is nothing."""
_IDLE_TICKS = 20


class Ticks:
    """Calls `look` with the seconds for which we were awake since its last call; it says whether it is busy.

    A process that was stopped, or starved of its processor, was not awake. When it runs again, its timers come before
    its sockets: so a late tick judges nothing, and the next one does, after what came meanwhile was read.
    """

    def __init__(self, look: Callable[[float], bool]) -> None:
        self._look = look
        self._timer: asyncio.TimerHandle | None = None
        self._ticked_at = self._due_at = 0.0
        self._awake = 0.0
        self._was_late = False
        self._idle = 0

    def start(self) -> None:
        self._ticked_at = monotonic()
        self._again(TICK)

    def stop(self) -> None:
        if self._timer:
            self._timer.cancel()

    def hurry(self) -> None:
        """There is something to look after."""
        if self._idle >= _IDLE_TICKS:
            self._idle = 0
            self.stop()
            self.start()

    def are_late(self) -> bool:
        """Whether this turn of the loop has lasted so long that what is read now may have lain there."""
        return monotonic() - self._ticked_at > 2 * TICK

    def _tick(self) -> None:
        now = monotonic()
        self._awake += min(now - self._ticked_at, 2 * TICK)
        self._ticked_at = now
        if now - self._due_at > TICK and not self._was_late:
            self._was_late = True
        else:
            awake, self._awake, self._was_late = self._awake, 0.0, False
            self._idle = 0 if self._look(awake) else self._idle + 1
        self._again(TICK if self._idle < _IDLE_TICKS else HEARTBEAT)

    def _again(self, seconds: float) -> None:
        self._due_at = monotonic() + seconds
        self._timer = asyncio.get_running_loop().call_later(seconds, self._tick)
