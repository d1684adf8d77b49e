"""Long work in a thread beside an event loop that must not notice.

Four things would stall the loop: a thread that keeps the interpreter for 5 ms at a time; the garbage collector, which
walks all new objects as soon as there are many; the same collector later, whenever it walks the whole policy again;
and the end of a policy, when a hundred thousand objects are freed in one go.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from collections import OrderedDict, deque
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from msgspec import Struct

T = TypeVar("T")

_SLICE = 0.0002
"""Seconds for which the thread keeps the interpreter while the loop waits for it."""
_FOLLOWED = (
    *(
        "ext_authz.policy",
        "ext_authz.phases",
        "ext_authz.edge.authorizer",
        "ext_authz.check",
        "ext_authz.phases.settle_request",
    ),
    *("ext_authz.edge.response", "ext_authz.bounded"),
)
"""Packages whose objects belong to one policy; what others own may outlive it."""


_AFTERWARDS = 5.0
"""Seconds until a policy is freed: longer than any check that began with it can take."""


class Calm:
    """One per process: it changes settings of the interpreter while it works."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._freeing: set[asyncio.Task[None]] = set()

    async def run(self, work: Callable[[], T]) -> T:
        """The result of blocking work. Python code only: a C function keeps the interpreter until it returns."""
        async with self._lock:
            interval = sys.getswitchinterval()
            sys.setswitchinterval(_SLICE)
            gc.disable()
            try:
                return await asyncio.to_thread(work)
            finally:
                # Before the collector may look: what was made just now is there to stay, and freed by counting.
                gc.freeze()
                gc.enable()
                sys.setswitchinterval(interval)

    def free(self, *held: object) -> None:
        """Let go, later and piece by piece, of what belongs to a policy; nobody else may hold it by then."""
        task = asyncio.create_task(self._free(list(held)), name="free")
        self._freeing.add(task)
        task.add_done_callback(self._freeing.discard)

    async def stop(self) -> None:
        for task in self._freeing:
            task.cancel()
        await asyncio.gather(*self._freeing, return_exceptions=True)

    async def _free(self, held: list[object]) -> None:
        await asyncio.sleep(_AFTERWARDS)
        await self.run(partial(_free, held))


def _free(held: list[object]) -> None:
    found = deque(held)
    held.clear()
    known = {id(each) for each in found}
    pieces: deque[object] = deque()
    while found:
        piece = found.popleft()
        fresh = [below for below in gc.get_referents(piece) if id(below) not in known and _is_part(below)]
        known.update(map(id, fresh))
        found.extend(fresh)
        pieces.append(piece)
    # Owners first: what an owner held is still held here, so that no end brings on the next.
    del piece, fresh
    while pieces:
        known.discard(id(pieces.popleft()))


def _is_part(value: object) -> bool:
    kind = type(value)
    if kind in (dict, OrderedDict, list, tuple, set, frozenset):
        return True
    return kind is not type and (issubclass(kind, Struct) or kind.__module__.startswith(_FOLLOWED))
