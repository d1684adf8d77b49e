"""One shard: a queue of checks, and the one connection that carries them to Redis batch by batch."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable

from redis.exceptions import RedisError

from ext_authz.observability.metrics import LEDGER_DROPPED, SETTLEMENT_BATCH, SETTLEMENT_SECONDS
from ext_authz.settlement.batch import Batch, read_reply
from ext_authz.settlement.connection import Link, NothingDone, open_link
from ext_authz.settlement.queueing import Queue

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT = 1.0
RECONNECT_PAUSE = 0.1
WAY_BACK = 0.1
"""Share of the timeout kept for the answer's way: what Redis gets to later than that it leaves undone, so that a check
already answered with 503 is neither charged nor written down as allowed."""


class Shard:
    """One call is in flight at a time, so that the next batch grows meanwhile."""

    def __init__(self, url: str, number: int, timeout: float, ledger_max: int, changed: Callable[[], None]) -> None:
        self.queue = Queue(timeout)
        self.seen_at = -math.inf
        """Monotonic time at which Redis last answered; at most a heartbeat ago while it is up."""
        self._url = url
        self._number = number
        self._way_back = timeout * WAY_BACK
        self._ledger_max = ledger_max
        self._changed = changed
        self._complaint = ""
        self._tried = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Return after the first attempt to reach Redis, whatever came of it; attempts go on."""
        self._task = asyncio.create_task(self._run(), name=f"settlement shard {self._number}")
        await self._tried.wait()

    async def stop(self) -> None:
        """Send what is queued, as far as one timeout allows, and close."""
        task, self._task = self._task, None
        if task:
            await self.queue.drain()
            task.cancel()
            await asyncio.wait([task])

    async def _run(self) -> None:
        """Outlives every failure, a bug of ours too: else nobody would be let in until a restart."""
        while True:
            try:
                async with open_link(self._url, self._number, CONNECT_TIMEOUT) as link:
                    self._found()
                    await self._serve(link)
            except (RedisError, OSError) as failure:
                self._lost(failure)
            except Exception as bug:
                logger.exception("settlement: unexpected failure, starting over")
                self._lost(bug)
            else:
                continue
            await asyncio.sleep(RECONNECT_PAUSE)

    async def _serve(self, link: Link) -> None:
        """Carry batches until another link is needed. Raises when Redis did not answer in time."""
        while True:
            batch = await self.queue.take()
            batch.on_expiry = link.abort
            try:
                with SETTLEMENT_SECONDS.time():
                    reply = await self._exchange(link, batch)
            except NothingDone:
                self.queue.put_back(batch)
                return
            except BaseException as failure:
                self.queue.put_back_refusals(batch)
                batch.fail(str(failure))
                if batch.expired:
                    raise TimeoutError("no answer in time") from failure
                if not isinstance(failure, RedisError | OSError):
                    raise
                self._complain(failure)  # whether Redis is lost, the next attempt to connect will show
                return
            self._answered(batch, reply)

    async def _exchange(self, link: Link, batch: Batch) -> tuple[int, ...]:
        body = batch.encode()
        until = batch.deadline - self._way_back
        while True:
            reply = read_reply(await link.settle(body, until, self._ledger_max))
            link.set_clock(reply[0])
            if reply[1] >= 0:
                return reply
            # Redis says that it is too late. Ask again if a clock was set, else it is right.
            if asyncio.get_running_loop().time() >= until:
                raise TimeoutError("Redis got to it too late")

    def _answered(self, batch: Batch, reply: tuple[int, ...]) -> None:
        self.seen_at = asyncio.get_running_loop().time()
        if self._complaint:
            logger.info("settlement: redis answers again", extra={"detail": f"shard {self._number}"})
            self._complaint = ""
        if batch.asks:
            SETTLEMENT_BATCH.observe(len(batch.asks))
        if reply[1]:
            LEDGER_DROPPED.inc(reply[1])
        batch.answer(reply)

    def _found(self) -> None:
        self.seen_at = asyncio.get_running_loop().time()
        self.queue.down = ""
        self._tried.set()
        self._changed()

    def _lost(self, failure: Exception) -> None:
        self.queue.fail(self._complain(failure))
        self._tried.set()
        self._changed()

    def _complain(self, failure: Exception) -> str:
        """Log once per cause, not once per attempt."""
        cause = str(failure) or "no answer in time"
        if cause != self._complaint:
            logger.error("settlement: redis fails", extra={"detail": f"shard {self._number}", "error": cause})
            self._complaint = cause
        return cause
