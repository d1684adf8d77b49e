"""Waiting inside an event loop: for a condition, not for a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable


async def until(condition: Callable[[], Awaitable[object]], seconds: float = 20.0) -> None:
    """The pause only lets the others run."""
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110 - what another process does has no event
            await asyncio.sleep(0.005)
