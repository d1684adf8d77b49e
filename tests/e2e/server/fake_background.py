"""Background tasks for `serve`: one that behaves, one that fails, one that ends."""

from __future__ import annotations

import asyncio


async def patient(stop: asyncio.Event) -> None:
    await stop.wait()


async def failing(stop: asyncio.Event) -> None:
    raise RuntimeError("the mirror broke")


async def ending(stop: asyncio.Event) -> None:
    return
