"""`tollgate serve`: worker processes, background tasks and the admin listener, started, watched and drained.

A worker or a background task that ends on its own is started again, which a log line and a metric tell. What ends too
often ends the whole: the rest is drained and the exit status is 1, so that whoever started `serve` sees it.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import signal
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from ext_authz.clock import SystemClock
from ext_authz.db.backoff import pause
from ext_authz.errors import ConfigError
from ext_authz.observability import log, multiprocess
from ext_authz.restarts import GivenUp, Restarts, restarting
from ext_authz.server import admin, ports, tls
from ext_authz.server.policies import Policies
from ext_authz.server.process import WorkerDied, WorkerProcess
from ext_authz.server.service import APP
from ext_authz.settings import Settings

Background = Callable[[asyncio.Event], Awaitable[None]]
"""Runs beside the workers until the event is set."""

H2CORN, GRPCIO = "ext_authz.server.h2corn_worker", "ext_authz.server.grpcio_worker"

_STOP_SECONDS = 5.0
_MISCONFIGURED_SECONDS = 10.0

logger = logging.getLogger(__name__)


async def serve(settings: Settings, background: Sequence[Background] = (), *, factory: str = APP) -> int:
    """Serve until SIGTERM or SIGINT, and return the exit status; a second signal stops at once.

    `multiprocess.prepare()` must have run before this module was imported.

    Raises:
        ConfigError: a port or socket is taken, a TLS file is wrong, or a worker says that a setting is.
    """
    log.configure(settings.log_level)
    tls.ensure_usable(settings)
    module = choose_server(settings)
    # Exclusively, though the workers share it: another Tollgate on the port is refused too.
    ports.bound("LISTEN", settings.listen_host, settings.listen_port).close()
    workers = [WorkerProcess(number, module) for number in range(1, settings.workers + 1)]
    policies = Policies(settings, workers, multiprocess.directory(), SystemClock())
    supervisor = Supervisor(settings, workers, policies)
    names = frozenset(name.strip().lower() for name in (settings.admin_names or "").split(","))
    with (
        ports.bound("ADMIN", settings.admin_host, settings.admin_port) as tcp,
        ports.unix_socket("ADMIN_SOCKET", settings.control_socket) as unix,
    ):
        async with (
            admin.listening(tcp, admin.public(supervisor, policies, names)),
            admin.listening(unix, admin.private(policies)),
        ):
            return await supervisor.run(background, factory)


def choose_server(settings: Settings) -> str:
    """The module that each worker runs. `auto` takes h2corn where it is installed."""
    if settings.server == "grpcio":
        return GRPCIO
    if importlib.util.find_spec("h2corn") is not None:
        return H2CORN
    if settings.server == "h2corn":
        raise ConfigError("TOLLGATE_SERVER: h2corn is not installed here: install it, or choose auto or grpcio")
    logger.warning("the portable server starts: h2corn, which is faster, is not installed")
    return GRPCIO


class Supervisor:
    """Owns the order of things: start, watch, drain, stop."""

    def __init__(self, settings: Settings, workers: Sequence[WorkerProcess], policies: Policies) -> None:
        self._settings = settings
        self._workers = workers
        self._policies = policies
        self._ready = False
        self._draining = False
        self._failed = False
        self._over = asyncio.Event()
        self._hurry = asyncio.Event()

    async def run(self, background: Sequence[Background], factory: str) -> int:
        self._catch_signals()
        stop = asyncio.Event()
        tasks = [asyncio.create_task(self._run_beside(beside, stop)) for beside in background]
        try:
            if await self._start(factory):
                tasks.append(asyncio.create_task(self._run_beside(self._policies.run, stop)))
                async with asyncio.TaskGroup() as kept:
                    for worker in self._workers:
                        kept.create_task(self._keep(worker, factory))
                await self._drain()
        finally:
            await self._stop()
            # Only now: until the last check is answered, revocations must keep arriving.
            stop.set()
            await _end(tasks)
        return 1 if self._failed else 0

    def _catch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)
        loop.add_signal_handler(signal.SIGHUP, self._policies.ask)

    def _on_signal(self) -> None:
        if self._over.is_set():
            self._hurry.set()
        self._over.set()

    async def _start(self, factory: str) -> bool:
        """True once every worker takes calls; False when a signal or a death came first."""
        for worker in self._workers:
            await worker.start(self._settings, factory)
        ready = asyncio.gather(*(worker.until_ready() for worker in self._workers))
        await _first(ready, self._over)
        if not ready.done():
            ready.cancel()
            return False
        try:
            await ready
        except WorkerDied as death:
            self._fail(str(death))
            return False
        self._ready = True
        logger.info("serving", extra={"address": self._settings.listen_host, "port": self._settings.listen_port})
        return True

    async def _keep(self, worker: WorkerProcess, factory: str) -> None:
        """Start a new process whenever one has died, until all is over; not for ever."""
        restarts = Restarts("worker")
        while True:
            await _first(worker.died, self._over)
            if self._over.is_set():
                return
            multiprocess.forget(worker.pid)
            try:
                await pause(self._over, self._before_next(worker, restarts))
            except GivenUp as reason:
                self._fail(str(reason))
                return
            if not self._over.is_set():
                await self._start_again(worker, factory)

    def _before_next(self, worker: WorkerProcess, restarts: Restarts) -> float:
        """Seconds. A policy file that was broken since is no crash as long as others serve the policy in force."""
        if worker.misconfigured and any(other.serves for other in self._workers):
            return _MISCONFIGURED_SECONDS
        return restarts.next(worker.end())

    async def _start_again(self, worker: WorkerProcess, factory: str) -> None:
        """The others serve on meanwhile. What does not get ready has died when this returns."""
        try:
            await worker.start(self._settings, factory)
        except OSError as failure:  # no process, no memory, no file descriptor left
            logger.warning("a worker cannot be started", extra={"worker": worker.number, "error": str(failure)})
            return
        ready = asyncio.ensure_future(worker.until_ready())
        await _first(ready, self._over)
        if not ready.done():
            ready.cancel()
            return
        if (trouble := ready.exception()) is not None:
            logger.error("a worker did not start", extra={"worker": worker.number, "error": str(trouble)})
            worker.kill()
            return
        logger.info("a worker serves again", extra={"worker": worker.number, "pid": worker.pid})
        self._policies.ask()  # it began with what is in the files now; and without a candidate

    async def _run_beside(self, beside: Background, stop: asyncio.Event) -> None:
        try:
            await restarting(getattr(beside, "__name__", repr(beside)), partial(beside, stop), stop)
        except GivenUp as reason:
            self._fail(str(reason))

    def _fail(self, sentence: str) -> None:
        logger.error("stopping: something ended on its own", extra={"detail": sentence})
        self._failed = True
        self._over.set()

    async def _drain(self) -> None:
        """Not ready first, so that callers turn away; `_stop` then lets each worker answer what is in flight."""
        self._draining = True
        logger.info("draining", extra={"seconds": self._settings.drain_delay + self._settings.drain_timeout})
        for worker in self._workers:
            worker.announce_drain()
        await _first(asyncio.sleep(self._settings.drain_delay), self._hurry)

    async def _stop(self) -> None:
        """A worker has `drain_timeout` for what is in flight; a second signal ends that."""
        self._draining = True
        patience = _STOP_SECONDS + (self._settings.drain_timeout if self._ready else 0)
        stopped = asyncio.gather(*(worker.stop(patience) for worker in self._workers))
        await _first(stopped, self._hurry)
        for worker in self._workers:
            worker.kill()
        await stopped

    def live(self) -> bool:
        """False when a worker hangs: restart us."""
        return not self._ready or not any(worker.hangs for worker in self._workers)

    def readiness(self) -> tuple[bool, dict[str, object]]:
        """Ready while a worker serves and none hangs: one that hangs takes connections, one that has died does not."""
        if not self._ready or self._draining:
            return False, {"ready": False, "reasons": ["draining" if self._draining else "starting"]}
        ready = self.live() and any(worker.serves for worker in self._workers)
        states = {f"worker {worker.number}": worker.why_not_serving() for worker in self._workers}
        reasons = [f"{name} {why}" for name, why in states.items() if why]
        dependencies = {name for worker in self._workers for name in worker.up()}
        up = {name: all(worker.up().get(name, True) for worker in self._workers) for name in sorted(dependencies)}
        detail: dict[str, object] = {"ready": ready, "reasons": reasons, "dependencies": up}
        if causes := {name: cause for worker in self._workers for name, cause in worker.causes().items()}:
            detail["causes"] = causes
        if degraded := {name: how for worker in self._workers for name, how in worker.degraded().items()}:
            detail["degraded"] = degraded
        return ready, {**detail, **self._policies.short()}


async def _first(work: Awaitable[object], event: asyncio.Event) -> None:
    """Wait for the work or the event, whichever comes first, and leave the work running."""
    happened = asyncio.create_task(event.wait())
    await asyncio.wait((asyncio.ensure_future(work), happened), return_when=asyncio.FIRST_COMPLETED)
    happened.cancel()


async def _end(tasks: Sequence[asyncio.Task[None]]) -> None:
    if tasks:
        _, late = await asyncio.wait(tasks, timeout=_STOP_SECONDS)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
