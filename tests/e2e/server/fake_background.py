"""Background tasks for `serve`: one that behaves, one that fails, one that ends."""

from __future__ import annotations

import asyncio


async def patient(stop: asyncio.Event) -> None:
    await stop.wait()


async def failing(stop: asyncio.Event) -> None:
    raise RuntimeError("the mirror broke")


async def failing_once(stop: asyncio.Event) -> None:
    global _failed  # noqa: PLW0603 - for the time of this process
    if not _failed:
        _failed = True
        raise RuntimeError("the mirror broke")
    await stop.wait()


_failed = False
