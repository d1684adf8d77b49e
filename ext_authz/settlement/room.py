"""How much room Redis has: for the ledger's events, and in its memory. Logged well before there is none.

The last of the memory is kept for revocations: when the rest is used up the ledger counts as full, so that a revocation
can still be written while every check is refused.
"""

from __future__ import annotations

import asyncio
import logging

from redis.exceptions import RedisError

from ext_authz.db import redis_keys
from ext_authz.observability.metrics import LEDGER_FILLED, REDIS_MEMORY_USED
from ext_authz.observability.once import OncePerCause
from ext_authz.settlement.connection import Link, fields

logger = logging.getLogger(__name__)

LOOK_EVERY = 1.0
ALARMS = (1.0, 0.8, 0.5)
"""Shares of the ledger's bound, and of Redis' maxmemory, that are logged."""
KEPT = 0.05
"""Share of maxmemory that is kept for revocations."""
FULL_OF_EVENTS = "the ledger stream reached its bound: is the usage worker running?"
FULL_OF_BYTES = "redis' memory is used up but for what is kept for revocations: raise maxmemory, or drain the ledger"


class Room:
    """One shard's, read once a second by each worker over its link."""

    def __init__(self, shard: int, ledger_max: int) -> None:
        self.ledger_max = ledger_max
        """Events that the ledger may hold now; 0 while memory has to be kept."""
        self.why_full = FULL_OF_EVENTS
        self.full = "not read yet"
        """Why no decision can be written down now; empty when one can."""
        self._shard = shard
        self._bound = ledger_max
        self._trouble = OncePerCause(
            logger, failing="settlement: running out of room", working="settlement: room again", detail=f"shard {shard}"
        )
        self._watching: asyncio.Task[None] | None = None

    def watch(self, link: Link) -> None:
        """Until the link ends."""
        self._watching = asyncio.create_task(self._watch(link), name=f"room of shard {self._shard}")

    async def _watch(self, link: Link) -> None:
        while not link.ended.done():
            try:
                memory, depth = await link.ask(("INFO", "memory"), ("XLEN", redis_keys.events(self._shard)))
            except RedisError:
                pass  # the settlement meets it too, and logs it; or the slot is being migrated
            else:
                found = fields(memory)
                used = int(found["used_memory"]) - int(found.get("mem_not_counted_for_evict", 0))
                self._update(used, int(found["maxmemory"]), depth)
            await asyncio.wait([link.ended], timeout=LOOK_EVERY)

    def _update(self, used: int, most: int, depth: int) -> None:
        memory, ledger = used / most if most else 0.0, depth / self._bound
        short = memory >= 1 - KEPT
        self.ledger_max, self.why_full = (0, FULL_OF_BYTES) if short else (self._bound, FULL_OF_EVENTS)
        self.full = self.why_full if depth >= self.ledger_max else ""
        REDIS_MEMORY_USED.labels(self._shard).set(memory)
        LEDGER_FILLED.labels(self._shard).set(ledger)
        if alarm := _alarm(ledger):
            self._trouble.failed(
                f"the ledger stream has reached {alarm:.0%} of its bound: is the usage worker running?"
            )
        if alarm := _alarm(memory):
            self._trouble.failed(f"redis' memory has reached {alarm:.0%} of maxmemory")
        if not (_alarm(ledger) or _alarm(memory)):
            self._trouble.worked()


def _alarm(share: float) -> float:
    """The highest that is reached."""
    return next((alarm for alarm in ALARMS if share >= alarm), 0.0)
