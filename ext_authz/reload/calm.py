"""Long work in a thread beside an event loop that must not notice.

Three things would stall the loop: a thread that keeps the interpreter for 5 ms at a time, the garbage collector, which
walks all objects when many new ones appear, and the same collector later, whenever it walks the policy again.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_SLICE = 0.0002
"""Seconds for which the thread keeps the interpreter while the loop waits for it."""


async def calmly(work: Callable[[], T]) -> T:
    """The result of blocking work. Python code only: a C function keeps the interpreter until it returns."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(_SLICE)
    gc.disable()
    try:
        return await asyncio.to_thread(work)
    finally:
        gc.enable()
        sys.setswitchinterval(interval)


def keep() -> None:
    """Leave all that lives now out of the collector's walks, for as long as it lives."""
    gc.freeze()
