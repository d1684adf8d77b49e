"""One shard: a queue of checks, and the one connection that carries them to Redis batch by batch.

Nothing waits in a task here: a check that comes wakes `_pump`, which sends; the reply answers its checks and pumps on.
One timer watches deadlines, and distinguishes two kinds of late: a Redis that was silent while this process was awake
loses its connection; when this process was kept from running, what has come meanwhile is read first.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from time import monotonic

from redis.exceptions import AskError, MovedError, RedisError

from ext_authz.db.causes import redis_cause
from ext_authz.db.redis import first_nodes
from ext_authz.errors import Overloaded, Unavailable
from ext_authz.observability.metrics import LEDGER_DROPPED, OVERLOADED, SETTLEMENT_BATCH, SETTLEMENT_SECONDS
from ext_authz.observability.once import OncePerCause
from ext_authz.settlement.batch import WAY_BACK, Batch, read_reply
from ext_authz.settlement.cluster import Migration
from ext_authz.settlement.connection import Link, open_link
from ext_authz.settlement.pipeline import HEARTBEAT, TICK, Queue, Ticks, waited_too_long
from ext_authz.settlement.room import Room

logger = logging.getLogger(__name__)

OPENING_ROUND_TRIPS = 8
"""At most, to connect over TLS and to be sent on by a cluster."""
SHORTEST_OPENING = 2.0
RECONNECT_PAUSE = 0.1
MAX_IN_FLIGHT = 32
"""Batches. Beside the first, which answers soon as a rule: full ones, and, when Redis is far away, one per tick."""


class Shard:
    """Sends one batch at a time while Redis is near, so that the next one grows meanwhile."""

    def __init__(self, url: str, number: int, timeout: float, ledger_max: int, changed: Callable[[], None]) -> None:
        self.queue = Queue(timeout, self._wake)
        self.seen_at = -math.inf
        """Monotonic time at which Redis last settled; at most a heartbeat ago while it is up."""
        self._url = url
        self._number = number
        self._timeout = timeout
        self.room = Room(number, ledger_max)
        self._changed = changed
        self._trouble = OncePerCause(
            logger, failing="settlement: redis fails", working="settlement: redis works again", detail=f"shard {number}"
        )
        self._nodes = first_nodes(url)
        self._migration = Migration(url, number)
        self._following: set[asyncio.Task[None]] = set()
        self._tried = asyncio.Event()
        self._idle = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._link: Link | None = None
        self._retired = False
        """Whether the link only gets the replies of what is on its way."""
        self._in_flight: list[Batch] = []
        self._sent_at = 0.0
        self._woken = False
        self._ticks = Ticks(self._look)
        self._silent = 0.0
        """Seconds for which we were awake, and Redis, asked, answered nothing in time."""

    async def start(self) -> None:
        """Return after the first attempt to reach Redis, whatever came of it; attempts go on."""
        self._ticks.start()
        self._task = asyncio.create_task(self._run(), name=f"settlement shard {self._number}")
        await self._tried.wait()

    async def stop(self) -> None:
        """Send what is queued, as far as one timeout allows, and close."""
        task, self._task = self._task, None
        if not task:
            return
        self._idle.clear()
        if self._is_busy():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), self._timeout)
        self.queue.close()
        self._ticks.stop()
        task.cancel()
        await asyncio.wait([task])

    async def _run(self) -> None:
        """Outlives every failure, a bug of ours too: otherwise every check would be refused until a restart."""
        while True:
            try:
                seconds = max(SHORTEST_OPENING, self._timeout * OPENING_ROUND_TRIPS)
                async with open_link(self._url, self._number, self._nodes, seconds) as link:
                    self._found(link)
                    await self._until_ended(link)
            except (RedisError, OSError) as failure:
                self._lost(failure)
            except Exception as bug:
                logger.exception("settlement: unexpected failure, starting over")
                self._lost(bug)
            finally:
                await self._migration.close()
            if self.queue.down:
                await asyncio.sleep(RECONNECT_PAUSE)

    async def _until_ended(self, link: Link) -> None:
        await asyncio.wait([link.ended])  # awaited itself, it would be cancelled with this task
        self._link = None
        if isinstance(reason := link.ended.result(), TimeoutError):
            raise reason

    def _is_busy(self) -> bool:
        return bool(self._in_flight) or not self.queue.is_empty

    def _wake(self) -> None:
        """At the end of this turn of the loop, so that what else comes in it goes along."""
        if not self._woken:
            self._woken = True
            self._ticks.start_soon()
            asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        """Send when nothing is on its way, and full batches beside what is."""
        self._woken = False
        while not self.queue.is_empty and (self.queue.has_full_batch or not self._in_flight):
            if not self._send():
                return

    def _send(self) -> bool:
        """The next batch, perhaps an empty one; whether there was a way."""
        link = self._link
        if link is None or link.ended.done() or self._retired or len(self._in_flight) >= MAX_IN_FLIGHT:
            return False
        self._settle(link, self.queue.take())
        return True

    def _settle(self, link: Link, batch: Batch) -> None:
        body = batch.encode(self._number)
        self._sent_at = batch.sent_at = monotonic()
        # Its checks are refused when the link is cut for its silence: nothing is to be taken for them after that.
        cut = batch.sent_at + self._timeout * (1 - WAY_BACK) - self._silent - TICK
        self._in_flight.append(batch)
        link.settle(body, min(batch.until, cut), self.room.ledger_max, partial(self._replied, link, batch))

    def _replied(self, link: Link, batch: Batch, reply: bytes | Exception) -> None:
        self._in_flight.remove(batch)
        try:
            if isinstance(reply, AskError) and not isinstance(reply, MovedError):
                self._follow(link, batch, reply)
            elif isinstance(reply, Exception):
                self._failed(batch, reply)
            else:
                self._answered(link, batch, read_reply(reply))
        except Exception as bug:
            logger.exception("settlement: unexpected failure, starting over")
            batch.fail(partial(Unavailable, "redis", str(bug)))
            link.end(bug)
        if self._retired and not self._in_flight and self._link:
            self._link.end(RedisError("retired"))
        self._pump()
        if not self._is_busy():
            self._idle.set()

    def _answered(self, link: Link, batch: Batch, reply: tuple[int, ...]) -> None:
        now, done = monotonic(), reply[1] >= 0
        SETTLEMENT_SECONDS.observe(now - batch.sent_at)
        link.set_clock(reply[0], batch.sent_at)
        if (done and now < batch.deadline) or self._is_our_delay(batch):
            self._works(now)
        if done:
            self._settled(batch, reply)
        else:
            self._too_late(link, batch)

    def _is_our_delay(self, batch: Batch) -> bool:
        """Whether the batch was sent late, or its reply may have waited for us to read it."""
        return batch.until - batch.sent_at < self._timeout / 2 or self._ticks.are_late()

    def _settled(self, batch: Batch, reply: tuple[int, ...]) -> None:
        if batch.requests:
            SETTLEMENT_BATCH.observe(len(batch.requests))
        if reply[1]:
            LEDGER_DROPPED.inc(reply[1])
        batch.answer(reply)

    def _too_late(self, link: Link, batch: Batch) -> None:
        """Redis did nothing: it was too late. If it is not yet (a clock was set, the link lives on), ask again."""
        if monotonic() < batch.until:
            self._silent = 0.0
            self._settle(link, batch)
            return
        batch.fail(self._why_late(settled=False))
        self.queue.put_back_unsent(batch)

    def _why_late(self, *, settled: bool) -> Callable[[], Exception]:
        """Redis is to blame when it has answered nothing in time for a while. Else there is more to do than can be."""
        if self._silent >= self._timeout / 2:
            return partial(Unavailable, "redis", "no answer in time")
        return partial(_late, settled=settled)

    def _failed(self, batch: Batch, error: Exception) -> None:
        """Whether Redis is lost, the next attempt to connect will show."""
        self._retired = True
        if isinstance(error, MovedError):
            self.queue.put_back(batch)
            return
        self.queue.put_back_refusals(batch)
        if batch.requests:
            self._trouble.failed(redis_cause(error))
            batch.fail(partial(Unavailable, "redis", redis_cause(error)))
        else:
            self._lost(error)

    def _follow(self, source: Link, batch: Batch, redirect: AskError) -> None:
        """The slot is being migrated: this batch is settled by the node that it goes to."""
        self._in_flight.append(batch)
        task = asyncio.create_task(self._settle_at_target(source, batch, redirect))
        self._following.add(task)
        task.add_done_callback(self._following.discard)

    async def _settle_at_target(self, source: Link, batch: Batch, redirect: AskError) -> None:
        try:
            target = await self._migration.bring(source, redirect, batch.counters())
            body = batch.encode(self._number)
        except Exception as failure:  # noqa: BLE001 - whatever it is, the batch ends by it
            self._replied(source, batch, failure)
            return
        batch.sent_at = monotonic()
        target.settle(body, batch.until, self.room.ledger_max, partial(self._replied, target, batch), asking=True)

    def _look(self, awake: float) -> bool:
        """Every tick: end what waits too long, cut a link that is silent, show that Redis is there."""
        now = monotonic()
        if self._in_flight:
            self._silent += awake
            if self._silent >= self._timeout * (1 - WAY_BACK) and self._link:
                self._link.end(TimeoutError("no answer in time"))
            for batch in self._in_flight:
                if batch.deadline <= now:
                    batch.fail(self._why_late(settled=True))
        self.queue.expire(waited_too_long if self._link else partial(Unavailable, "redis", "not connected"))
        if not self.queue.is_empty or now - self._sent_at >= HEARTBEAT:
            self._send()
        return self._is_busy()

    def _found(self, link: Link) -> None:
        """Reached; that it works too, the answer to a first batch shows."""
        self._link, self._retired, self._silent = link, False, 0.0
        self.room.watch(link)
        self._send()

    def _works(self, now: float) -> None:
        self.seen_at, self._silent = now, 0.0
        self._trouble.worked()
        if self.queue.down:
            self.queue.down = ""
            self._tried.set()
            self._changed()

    def _lost(self, failure: Exception) -> None:
        cause = redis_cause(failure)
        self._trouble.failed(cause)
        self.queue.fail(cause)
        self._tried.set()
        self._changed()


def _late(*, settled: bool) -> Overloaded:
    OVERLOADED.labels("late").inc()
    return Overloaded("no answer in time", settled=settled)
