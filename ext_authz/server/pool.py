"""The worker processes: each place among them is taken by one worker at a time, and handed from one to the next.

A new worker is ready before it listens. It gets the very socket of the worker in its place, so that no connection waits
in the queue of a socket that is closed; then the old one answers what is in flight and ends. The socket of a worker
that died is closed: its connections are reset, and new ones go to the other workers at once.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
from collections import deque
from collections.abc import Awaitable, Callable

from msgspec import Struct

from ext_authz.db.backoff import first, pause
from ext_authz.observability import metric_files
from ext_authz.observability.metrics import GENERATION
from ext_authz.restarts import Restarts
from ext_authz.server import ports
from ext_authz.server.messages import Difference
from ext_authz.server.process import WorkerProcess, spawned
from ext_authz.server.sources import Rejected, rejecting
from ext_authz.server.worker import environment
from ext_authz.settings import Settings

H2CORN, GRPCIO = "ext_authz.server.h2corn", "ext_authz.server.grpcio"
"""Only the first can take a listening socket that is open already."""

STABLE_SECONDS = 5.0
"""A worker that ends after it listened for so long is no crash loop."""

_STOP_SECONDS = 5.0
_MISCONFIGURED_SECONDS = 10.0
_PATIENCE = 5.0
"""Seconds for a new worker to reach the stores and key sets that the others reach."""
_AT_ONCE = 4
"""Workers that start at a time: each takes a core for a second, and memory beside the one that it replaces."""
_OBSERVED_EVERY = 1.0
_HANGS = 10
"""Observations in a row that a worker hangs until it is killed. They are counted, so that nothing happens to workers
that were stopped together with this process."""

logger = logging.getLogger(__name__)


Accept = Callable[[WorkerProcess], Awaitable[object]]
"""Raises Rejected unless a worker that is ready may take its place."""


class Generation(Struct, frozen=True):
    """The input of all workers of one generation."""

    number: int
    settings: Settings

    @property
    def descriptors(self) -> list[int]:
        """Of its TLS files, which are in memory: no disk has a second copy of the key."""
        files = self.settings.tls_cert, self.settings.tls_key, self.settings.tls_client_ca
        return [int(file.name) for file in files if file]


class Pool:
    """`over`: no worker is started any more."""

    def __init__(self, server: str, factory: str, over: asyncio.Event) -> None:
        """`server`: the module that each process runs."""
        self.workers: list[WorkerProcess] = []
        self.generation: Generation
        self.differences: deque[Difference] = deque(maxlen=1000)
        """What the candidate policies decided otherwise: the latest."""
        self._command = [sys.executable, "-m", server]
        self._hands_over = server == H2CORN
        self._factory = factory
        self.over = over
        self._alive: set[WorkerProcess] = set()
        """Also those that start or drain."""
        self._retiring: dict[WorkerProcess, asyncio.Task[None]] = {}
        self._places: list[asyncio.Lock] = []
        self._listeners: dict[int, socket.socket] = {}
        """By place."""

    async def start(self, generation: Generation) -> None:
        """The first generation. Raises Rejected."""
        self.generation = generation
        self._places = [asyncio.Lock() for _ in range(generation.settings.workers)]
        for place in range(len(self._places)):
            self.workers.append(await self._started(place, generation))
        await asyncio.gather(*(worker.until_ready() for worker in self.workers))
        for place, worker in enumerate(self.workers):
            await worker.listen(self._listener(place))
        GENERATION.set(generation.number)

    async def renew(self, generation: Generation, accept: Accept) -> None:
        """The first workers of the next generation take their places, if `accept` does not raise for the very first;
        `fill` does the rest.

        Raises:
            Rejected: the generation in force stays.
        """
        decided = asyncio.create_task(self._replace(0, generation, accept))
        others = [
            asyncio.create_task(self._replace(place, generation, lambda _: asyncio.shield(decided)))
            for place in range(1, min(_AT_ONCE, len(self.workers)))
        ]
        try:
            await decided
            self.generation = generation
            GENERATION.set(generation.number)
        except BaseException:
            for other in others:
                other.cancel()
            raise
        finally:
            await asyncio.gather(*others, return_exceptions=True)

    async def fill(self) -> list[str]:
        """Replace the workers of earlier generations. What kept some of them in place, in sentences."""
        at_once = asyncio.Semaphore(_AT_ONCE)

        async def fill(place: int) -> str:
            try:
                async with at_once:
                    if self.workers[place].generation != self.generation.number:
                        await self._replace(place)
            except Rejected as failure:
                return str(failure)
            return ""

        ends = await asyncio.gather(*(fill(place) for place in range(len(self.workers))))
        return [end for end in ends if end]

    async def keep(self, place: int) -> None:
        """Replace each worker that dies in this place, until all is over.

        Raises:
            GivenUp: a crash loop. The message names the last error.
        """
        restarts = Restarts("worker")
        while dead := await self._dead(place):
            if dead.listened() > STABLE_SECONDS:
                restarts = Restarts("worker")
            seconds = restarts.next(dead.end)
            while dead is self.workers[place]:
                await pause(self.over, seconds)
                try:
                    await self._replace(place)
                except Rejected as failure:
                    if self.over.is_set():
                        return
                    logger.error("a worker did not start", extra={"worker": place + 1, "error": str(failure)})  # noqa: TRY400 - no traceback
                    dead.not_replaced = str(failure)
                    # A file that was broken since is no crash as long as others serve.
                    broken = not failure.again and any(other.serves for other in self.workers)
                    seconds = _MISCONFIGURED_SECONDS if broken else restarts.next(str(failure))
                else:
                    logger.info("a worker serves again", extra={"worker": place + 1, "pid": self.workers[place].pid})

    async def _dead(self, place: int) -> WorkerProcess | None:
        """The worker in this place once it has died; one that hangs is killed. None: all is over."""
        silent = 0
        while not self.over.is_set():
            worker = self.workers[place]
            if worker.died.done():
                self._retire(worker)
                if place in self._listeners and any(other.serves for other in self.workers):
                    self._listeners.pop(place).close()  # otherwise connections wait in it for the next worker
                return worker
            await first(worker.died, self.over.wait(), seconds=_OBSERVED_EVERY)
            silent = silent + 1 if worker.hangs else 0
            if silent == _HANGS:
                logger.error("a worker hangs: killed", extra={"worker": worker.number, "pid": worker.pid})
                worker.kill()
        return None

    async def _replace(self, place: int, generation: Generation | None = None, accept: Accept | None = None) -> None:
        """A worker of this generation, otherwise of the one in force, takes the place unless one has it already.

        Raises:
            Rejected: it cannot start, or cannot do what those in force can.
        """
        async with self._places[place]:
            generation, before = generation or self.generation, self.workers[place]
            # Whoever waited for the place while a change took it comes with the generation before.
            if before.generation >= generation.number and not before.died.done():
                return
            worker = await self._started(place, generation)
            try:
                await worker.until_ready()
                if accept is not None:
                    await accept(worker)
                # In the place of a dead one, one that cannot do everything is better than none.
                in_need = before.died.done() and generation is self.generation
                await self._wait_until_able(worker, necessarily=not in_need)
                await worker.listen(self._listener(place))
            except BaseException:
                worker.kill()
                self._retire(worker)
                raise
            self.workers[place] = worker
            await before.leave()
            self._retire(before)

    async def _started(self, place: int, generation: Generation) -> WorkerProcess:
        environ = {**os.environ, **environment(generation.settings, self._factory)}
        with rejecting():
            process, line = await spawned(self._command, environ, generation.descriptors)
        worker = WorkerProcess(place + 1, generation.number, process, line, self.differences)
        self._alive.add(worker)
        if self.over.is_set():
            worker.kill()
        return worker

    async def _wait_until_able(self, worker: WorkerProcess, *, necessarily: bool) -> None:
        """Until it can use what the workers in force can."""
        await worker.until(lambda: not self._missing(worker), _PATIENCE)
        if necessarily and (missing := ", ".join(self._missing(worker))):
            sentence = f"a new worker cannot use {missing} yet, which the workers in force can: they stay"
            raise Rejected(sentence, again=True)

    def _missing(self, worker: WorkerProcess) -> list[str]:
        others = [other.report for other in self.workers if other.serves]
        report = worker.report
        up = {name for other in others for name, works in other.up.items() if works}
        borne = {name for other in others for name, mode in other.degraded.items() if mode != "deny"}
        denied = {name for name, mode in report.degraded.items() if mode == "deny"}
        return sorted({name for name, works in report.up.items() if not works} & up | borne & denied)

    def _listener(self, place: int) -> socket.socket | None:
        if self._hands_over and place not in self._listeners:
            settings = self.generation.settings
            with rejecting():
                self._listeners[place] = ports.bound("LISTEN", settings.listen_host, settings.listen_port, shared=True)
        return self._listeners.get(place)

    def _retire(self, worker: WorkerProcess) -> None:
        """It answers what is in flight and ends; nothing waits for that."""
        if worker in self._alive - self._retiring.keys():
            self._retiring[worker] = asyncio.create_task(self._end(worker))

    async def _end(self, worker: WorkerProcess) -> None:
        await worker.stop(_STOP_SECONDS + self.generation.settings.drain_timeout)
        metric_files.forget(worker.pid)
        self._alive.discard(worker)
        del self._retiring[worker]

    def announce_drain(self) -> None:
        for worker in self.workers:
            worker.announce_drain()

    async def stop(self, seconds: float, hurry: asyncio.Event) -> None:
        """Each worker has so long for what is in flight; `hurry` ends that."""
        while self._listeners:
            self._listeners.popitem()[1].close()
        stopped = asyncio.gather(*(worker.stop(seconds) for worker in self._alive))
        await first(stopped, hurry.wait())
        for worker in self._alive:
            worker.kill()
        await asyncio.gather(stopped, *self._retiring.values())
