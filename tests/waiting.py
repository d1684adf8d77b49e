"""Inside an event loop: waiting for a condition, not for a time; and work that goes on until it is stopped."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Protocol


class Work(Protocol):
    async def run(self, stop: asyncio.Event, /) -> None:
        """Until `stop`."""


async def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """`condition`: returns it, or is awaited for it. The pause only lets the others run."""
    async with asyncio.timeout(seconds):
        while not await _found(condition):  # noqa: ASYNC110 - what another process does has no event
            await asyncio.sleep(0.005)


async def _found(condition: Callable[[], object]) -> object:
    found = condition()
    return await found if inspect.isawaitable(found) else found


@asynccontextmanager
async def running(*works: Work) -> AsyncIterator[None]:
    """Run them until the end of the block."""
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        for work in works:
            tasks.create_task(work.run(stop))
        try:
            yield
        finally:
            stop.set()
