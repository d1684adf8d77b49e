"""What waits for Redis: checks, in batches that form while a call is in flight, and events of refusals.

And for how long: one timer bounds them all.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from functools import partial
from time import monotonic

from ext_authz.errors import Overloaded, Unavailable
from ext_authz.observability.metrics import LEDGER_DROPPED, OVERLOADED
from ext_authz.settlement.batch import MAX_CHECKS, MAX_REFUSALS, Batch, Return
from ext_authz.settlement.model import SettleRequest, SettleResult

logger = logging.getLogger(__name__)

MAX_QUEUED_REFUSALS = 10_000
MAX_QUEUED = 100_000
MAX_QUEUED_BYTES = 64 << 20
"""Refusals, and decisions that were made without Redis: their number, and the bytes of their events."""


class Queue:
    """Belongs to one event loop. While `down` says why Redis is lost, checks are refused at once, not kept waiting."""

    def __init__(self, timeout: float, wake: Callable[[], None]) -> None:
        """`wake` is called when there is something to take that was not there before."""
        self.down = "not connected yet"
        self._timeout = timeout
        self._wake = wake
        self._batches: deque[Batch] = deque()
        self._refusals: deque[tuple[int, bytes]] = deque()
        self._refusal_bytes = 0
        self._returns: list[Return] = []

    def put(self, request: SettleRequest) -> asyncio.Future[SettleResult]:
        """The answer to come; within the timeout it is there, or Unavailable, or Overloaded."""
        if self.down:
            raise Unavailable("redis", self.down)
        batches = self._batches
        if batches and len(batches[-1].requests) < MAX_CHECKS:
            batch = batches[-1]
        else:
            batch = Batch(self._timeout)
            batches.append(batch)
            self._wake()
        future: asyncio.Future[SettleResult] = asyncio.get_running_loop().create_future()
        batch.requests.append(request)
        batch.futures.append(future)
        return future

    def record(self, event: bytes, outcome: int) -> None:
        """Queue the event of a refusal; what does not fit is dropped and counted."""
        self._keep(event, outcome, MAX_QUEUED_REFUSALS)

    def record_degraded(self, event: bytes, outcome: int) -> None:
        """As `record`, for what was decided without Redis: sent when it is back."""
        self._keep(event, outcome, MAX_QUEUED)

    @property
    def has_room(self) -> bool:
        """Whether a decision made now without Redis would be written down."""
        return len(self._refusals) < MAX_QUEUED and self._refusal_bytes < MAX_QUEUED_BYTES

    @property
    def is_empty(self) -> bool:
        return not (self._batches or self._refusals or self._returns)

    @property
    def has_full_batch(self) -> bool:
        return bool(self._batches) and len(self._batches[0].requests) >= MAX_CHECKS

    def _keep(self, event: bytes, outcome: int, most: int) -> None:
        if not event:  # of a read
            return
        if len(self._refusals) >= most or self._refusal_bytes >= MAX_QUEUED_BYTES:
            LEDGER_DROPPED.inc()
            return
        self._refusals.append((outcome, event))
        self._refusal_bytes += len(event)
        self._wake()

    def give_back(self, returns: list[Return]) -> None:
        """Sent once, with the next batch. If that gets lost they stay taken: a limit is never exceeded."""
        self._returns += returns
        self._wake()

    def take(self) -> Batch:
        """The next batch, perhaps an empty one, with the refusals and returns that are sent with it."""
        self.expire(waited_too_long)
        batch = self._batches.popleft() if self._batches else Batch(self._timeout)
        while self._refusals and len(batch.refusals) < MAX_REFUSALS:
            batch.refusals.append(self._refusals.popleft())
            self._refusal_bytes -= len(batch.refusals[-1][1])
        batch.returns += self._returns
        self._returns = []
        return batch

    def put_back(self, batch: Batch) -> None:
        """Redis did nothing with it: it is the first to go when there is a connection again."""
        self.put_back_refusals(batch)
        self._batches.appendleft(batch)

    def put_back_unsent(self, batch: Batch) -> None:
        """Redis did nothing with it, and its checks have ended."""
        self.put_back_refusals(batch)
        self._returns += batch.returns

    def put_back_refusals(self, batch: Batch) -> None:
        """Whether Redis has them is unknown. Sent again: the ledger takes each decision once."""
        room = MAX_QUEUED - len(self._refusals)
        LEDGER_DROPPED.inc(max(0, len(batch.refusals) - room))
        kept, batch.refusals = batch.refusals[:room], []
        self._refusals.extendleft(reversed(kept))
        self._refusal_bytes += sum(len(event) for _, event in kept)

    def expire(self, why: Callable[[], Exception]) -> None:
        """End what has waited too long to be sent at all."""
        while self._batches and self._batches[0].until <= monotonic():
            self._batches.popleft().fail(why)

    def fail(self, detail: str) -> None:
        """Redis is lost: refuse what waits and what comes, until `down` is empty again."""
        self.down = detail
        self._returns = []
        while self._batches:
            self._batches.popleft().fail(partial(Unavailable, "redis", detail))

    def close(self) -> None:
        """Refuse what waits and what comes, drop the events. The log says so: our metrics end with this process."""
        self.fail("stopped")
        if lost := len(self._refusals):
            LEDGER_DROPPED.inc(lost)
            logger.error(
                "settlement: stopped before redis took these decisions: the ledger lacks them",
                extra={"detail": f"{lost} decisions"},
            )
        self._refusals.clear()
        self._refusal_bytes = 0


def waited_too_long() -> Overloaded:
    """Redis is there, and did not take it in time."""
    OVERLOADED.labels("queue").inc()
    return Overloaded("too late to be sent")


TICK = 0.01
"""Seconds between two ticks while something is pending."""
HEARTBEAT = 1.0
"""Seconds between two ticks while nothing is."""
_IDLE_TICKS = 20


class Ticks:
    """Calls `look` with the seconds for which the process was awake since its last call; it returns whether it is busy.

    A process that was stopped, or starved of its processor, was not awake. When it runs again, its timers come before
    its sockets: so a late tick ends nothing, and the next one does, after what came meanwhile was read.
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

    def start_soon(self) -> None:
        """Something is pending."""
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
