"""How long to wait for a dependency that does not answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

SHORTEST = 0.1
LONGEST = 3.0


class Backoff:
    """Doubles the pause with every failure in a row."""

    def __init__(self, stop: asyncio.Event, worked: Callable[[], None] = lambda: None) -> None:
        """`worked` is called at every success."""
        self._stop = stop
        self._worked = worked
        self._pause = SHORTEST

    def succeeded(self) -> None:
        self._pause = SHORTEST
        self._worked()

    async def pause(self) -> None:
        await pause(self._stop, self._pause)
        self._pause = min(self._pause * 2, LONGEST)


async def pause(stop: asyncio.Event, seconds: float) -> None:
    """The event ends it at once."""
    with suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)


async def first(*waits: Awaitable[object], seconds: float | None = None) -> None:
    """Wait for one of them, or so long. Futures and tasks are left running, coroutines are not."""
    tasks = [asyncio.ensure_future(each) for each in waits]
    await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for given, task in zip(waits, tasks, strict=True):
        if task is not given:
            task.cancel()
