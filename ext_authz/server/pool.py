"""The worker processes: each place among them is taken by one worker at a time, and handed from one to the next.

A new worker is ready before it listens. It takes over the very socket of the worker in its place, so that no connection
waits in the queue of a socket that is closed; then the old one answers what is in flight and ends. The socket of a
worker that is killed is closed with it: its connections are reset, and new ones go to the other workers at once.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress

from msgspec import Struct

from ext_authz.db.backoff import pause
from ext_authz.errors import ConfigError, TollgateError
from ext_authz.observability import metric_files
from ext_authz.observability.metrics import GENERATION
from ext_authz.restarts import Restarts
from ext_authz.server import ports
from ext_authz.server.messages import Differences
from ext_authz.server.process import WorkerDied, WorkerProcess
from ext_authz.server.worker import LINE_FD, environment
from ext_authz.settings import Settings

STABLE_SECONDS = 5.0
"""A worker that ends after it listened for so long is no crash loop."""

_STOP_SECONDS = 5.0
_MISCONFIGURED_SECONDS = 10.0
_PATIENCE = 5.0
"""Seconds for a new worker to reach the stores and key sets that the others reach."""
_AT_ONCE = 4
"""Workers that start at a time: each takes a core for a second, and memory beside the one that it replaces."""

logger = logging.getLogger(__name__)


class Generation(Struct, frozen=True):
    """The input of all workers of one generation."""

    number: int
    settings: Settings


class NotYet(TollgateError):
    """A new worker cannot do yet what the workers in force can."""


class Pool:
    """`over`: no worker is started any more."""

    def __init__(
        self,
        command: list[str],
        factory: str,
        over: asyncio.Event,
        *,
        hands_over: bool,
        differences: Callable[[Differences], None],
    ) -> None:
        """`command`: what each process runs. `hands_over`: its server takes a listening socket that is open already.
        `differences`: what the candidate policies decide otherwise."""
        self.workers: list[WorkerProcess] = []
        self.generation: Generation
        self._command = command
        self._factory = factory
        self._over = over
        self._hands_over = hands_over
        self._differences = differences
        self._alive: set[WorkerProcess] = set()
        """Also those that start or drain."""
        self._retiring: set[asyncio.Task[None]] = set()
        self._places: list[asyncio.Lock] = []

    async def start(self, generation: Generation) -> None:
        """The first generation.

        Raises:
            ConfigError: a worker finds a setting, TLS file or the policy wrong.
            WorkerDied: a worker ended.
        """
        self.generation = generation
        self._places = [asyncio.Lock() for _ in range(generation.settings.workers)]
        for place in range(len(self._places)):
            self.workers.append(await self._started(place, generation))
        await asyncio.gather(*(worker.until_ready() for worker in self.workers))
        for worker in self.workers:
            with self._socket() as listener:
                await worker.listen(listener)
        GENERATION.set(generation.number)

    async def renew(self, generation: Generation, accept: Callable[[WorkerProcess], None]) -> None:
        """The first workers of the next generation take their places, if `accept` does not raise for the very first;
        `fill` does the rest.

        Raises:
            ConfigError, WorkerDied: as `start`; the generation in force stays.
            NotYet: it lacks what the workers in force have.
        """
        places = range(min(_AT_ONCE, len(self.workers)))
        births = [asyncio.create_task(self._born(place, generation, accept)) for place in places]
        try:
            await self._take_place(0, await births[0])
        except BaseException:
            for worker in await _cancelled(births):
                self._discard(worker)
            raise
        self.generation = generation
        GENERATION.set(generation.number)
        await asyncio.gather(*(self._follow(place, births[place]) for place in places[1:]), return_exceptions=True)

    async def _follow(self, place: int, birth: asyncio.Task[WorkerProcess]) -> None:
        await self._take_place(place, await birth)

    async def fill(self) -> list[str]:
        """Replace the workers of earlier generations. What kept some of them in place, in sentences."""
        at_once = asyncio.Semaphore(_AT_ONCE)

        async def fill(place: int) -> None:
            async with at_once:
                if self.workers[place].generation != self.generation.number and not self._over.is_set():
                    await self._take_place(place, await self._born(place, self.generation))

        ends = await asyncio.gather(*(fill(place) for place in range(len(self.workers))), return_exceptions=True)
        for end in ends:
            if end is not None and not isinstance(end, TollgateError | OSError):
                raise end
        return [str(end) for end in ends if end is not None]

    async def keep(self) -> None:
        """Replace each worker that dies, until all is over.

        Raises:
            GivenUp: a crash loop. The message names the last error.
        """
        async with asyncio.TaskGroup() as kept:
            for place in range(len(self.workers)):
                kept.create_task(self._keep(place))

    async def _keep(self, place: int) -> None:
        restarts = Restarts("worker")
        while not self._over.is_set():
            worker = self.workers[place]
            await first(worker.died, self._over)
            if self._over.is_set() or worker is not self.workers[place]:
                continue
            if worker.listened() > STABLE_SECONDS:
                restarts = Restarts("worker")
            self._discard(worker)
            with self._socket_if_alone() as waiting:
                await self._replace(place, worker, restarts, waiting)

    async def _replace(
        self, place: int, dead: WorkerProcess, restarts: Restarts, waiting: socket.socket | None
    ) -> None:
        """Start workers of the generation in force until one has taken the place of the dead one, or all is over."""
        seconds = restarts.next(dead.end)
        while dead is self.workers[place]:
            await pause(self._over, seconds)
            if self._over.is_set():
                return
            try:
                worker = await self._born(place, self.generation, wait_only=True)
                await self._take_place(place, worker, waiting and nullcontext(waiting))
            except (TollgateError, OSError) as failure:
                logger.error("a worker did not start", extra={"worker": place + 1, "error": str(failure)})  # noqa: TRY400 - no traceback
                dead.not_replaced = str(failure)
                seconds = self._before_next(failure, restarts)
            else:
                logger.info("a worker serves again", extra={"worker": place + 1, "pid": worker.pid})

    def _before_next(self, failure: Exception, restarts: Restarts) -> float:
        """Seconds. A file that was broken since is no crash as long as others serve."""
        if isinstance(failure, ConfigError) and any(other.serves for other in self.workers):
            return _MISCONFIGURED_SECONDS
        return restarts.next(str(failure))

    async def _started(self, place: int, generation: Generation) -> WorkerProcess:
        worker = WorkerProcess(place + 1, generation.number, self._command, self._differences)
        await worker.start({**os.environ, **environment(generation.settings, self._factory)}, LINE_FD)
        self._alive.add(worker)
        return worker

    async def _born(
        self,
        place: int,
        generation: Generation,
        accept: Callable[[WorkerProcess], None] = lambda _: None,
        *,
        wait_only: bool = False,
    ) -> WorkerProcess:
        """A worker that can do what those in force can; with `wait_only` also one that cannot, after a while."""
        worker = await self._started(place, generation)
        try:
            await worker.until_ready()
            accept(worker)
            able = await worker.until(lambda: not self._missing(worker), _PATIENCE)
            if not able and not wait_only:
                self._refuse(worker)
        except BaseException:
            self._discard(worker)
            raise
        return worker

    def _refuse(self, worker: WorkerProcess) -> None:
        names = ", ".join(self._missing(worker)) or "itself"
        raise NotYet(f"a new worker cannot use {names} yet, which the workers in force can: they stay")

    def _missing(self, worker: WorkerProcess) -> list[str]:
        others = [other.report for other in self.workers if other.serves]
        report = worker.report
        up = {name for other in others for name, works in other.up.items() if works}
        borne = {name for other in others for name, mode in other.degraded.items() if mode != "deny"}
        denied = {name for name, mode in report.degraded.items() if mode == "deny"}
        return sorted({name for name, works in report.up.items() if not works} & up | borne & denied)

    async def _take_place(
        self, place: int, worker: WorkerProcess, waiting: AbstractContextManager[socket.socket | None] | None = None
    ) -> None:
        """`waiting`: the socket to listen on, where it is not that of the worker in this place."""
        async with self._places[place]:
            before = self.workers[place]
            if before.generation > worker.generation:
                self._discard(worker)
                raise WorkerDied(f"worker {place + 1} is of a later generation by now")
            try:
                with waiting or await self._socket_of(before) as listener:
                    await worker.listen(listener)
            except BaseException:
                self._discard(worker)
                raise
            self.workers[place] = worker
            await before.leave()
            self._retire(before)

    async def _socket_of(self, worker: WorkerProcess) -> AbstractContextManager[socket.socket | None]:
        handed = await worker.hand_over() if self._hands_over and not worker.died.done() else None
        return handed or self._socket()

    def _socket_if_alone(self) -> AbstractContextManager[socket.socket | None]:
        """While no other worker listens, connections wait in it for the next one, if it can be had."""
        with suppress(ConfigError, OSError):
            return nullcontext() if any(other.serves for other in self.workers) else self._socket()
        return nullcontext()

    def _socket(self) -> AbstractContextManager[socket.socket | None]:
        settings = self.generation.settings
        if not self._hands_over:
            return nullcontext()
        return ports.bound("LISTEN", settings.listen_host, settings.listen_port, shared=True)

    def _discard(self, worker: WorkerProcess) -> None:
        worker.kill()
        self._retire(worker)

    def _retire(self, worker: WorkerProcess) -> None:
        """It answers what is in flight and ends; nothing waits for that."""
        retiring = asyncio.create_task(self._end(worker))
        self._retiring.add(retiring)
        retiring.add_done_callback(self._retiring.discard)

    async def _end(self, worker: WorkerProcess) -> None:
        await worker.stop(_STOP_SECONDS + self.generation.settings.drain_timeout)
        self._alive.discard(worker)
        metric_files.forget(worker.pid)

    def announce_drain(self) -> None:
        for worker in self.workers:
            worker.announce_drain()

    async def stop(self, seconds: float, hurry: asyncio.Event) -> None:
        """Each worker has so long for what is in flight; `hurry` ends that."""
        stopped = asyncio.gather(*(worker.stop(seconds) for worker in self._alive))
        await first(stopped, hurry)
        for worker in self._alive:
            worker.kill()
        await asyncio.gather(stopped, *self._retiring)


async def _cancelled(births: Sequence[asyncio.Task[WorkerProcess]]) -> list[WorkerProcess]:
    """The workers that start nevertheless."""
    for birth in births:
        birth.cancel()
    ends = await asyncio.gather(*births, return_exceptions=True)
    return [end for end in ends if isinstance(end, WorkerProcess)]


async def first(work: Awaitable[object], event: asyncio.Event) -> None:
    """Wait for the work or the event, whichever comes first, and leave the work running."""
    happened = asyncio.create_task(event.wait())
    await asyncio.wait((asyncio.ensure_future(work), happened), return_when=asyncio.FIRST_COMPLETED)
    happened.cancel()
