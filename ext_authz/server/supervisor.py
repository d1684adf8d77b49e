"""`tollgate serve`: worker processes, background tasks and the admin listener, started, watched and drained.

Anything that ends on its own - a worker, a background task - ends the whole: the rest is drained and the exit status
is 1, so that whoever started `serve` sees it and starts it again. Nothing is patched up in the dark.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable, Sequence

from ext_authz.clock import SystemClock
from ext_authz.errors import ConfigError
from ext_authz.observability import log, multiprocess
from ext_authz.server import admin, ports, pyvoy, tls
from ext_authz.server.grpcio import Grpcio
from ext_authz.server.policies import Policies
from ext_authz.server.process import Server, WorkerDied, WorkerProcess
from ext_authz.server.service import APP
from ext_authz.settings import Settings

Background = Callable[[asyncio.Event], Awaitable[None]]
"""Runs beside the workers until the event is set."""

_STOP_SECONDS = 5.0

logger = logging.getLogger(__name__)


async def serve(settings: Settings, background: Sequence[Background] = (), *, factory: str = APP) -> int:
    """Serve until SIGTERM or SIGINT, and return the exit status; a second signal stops at once.

    `multiprocess.prepare()` must have run before this module was imported.

    Raises:
        ConfigError: a port is taken, a TLS file is wrong, or a worker says that a setting is.
    """
    log.configure(settings.log_level)
    tls.ensure_usable(settings)
    ports.ensure_free("LISTEN", settings.listen_host, settings.listen_port)
    servers = choose_servers(settings)
    workers = [WorkerProcess(number, server) for number, server in enumerate(servers, 1)]
    policies = Policies(settings, workers, multiprocess.directory(), SystemClock())
    supervisor = Supervisor(settings, workers, policies)
    with ports.bound("ADMIN", settings.admin_host, settings.admin_port) as bound:
        async with admin.listening(bound, supervisor, policies):
            return await supervisor.run(background, factory)


def choose_servers(settings: Settings) -> list[Server]:
    """One per worker. `auto` takes pyvoy where it runs and says how to get it where it does not."""
    missing = pyvoy.missing() if settings.server != "grpcio" else ""
    if settings.server == "pyvoy" and missing:
        raise ConfigError(f"TOLLGATE_SERVER: pyvoy cannot run here: {missing}; or choose auto or grpcio")
    if settings.server == "grpcio" or missing:
        if missing:
            logger.warning("the portable server starts, the fast one cannot", extra={"detail": missing})
        return [Grpcio() for _ in range(settings.workers)]
    _, address = ports.resolved("LISTEN", settings.listen_host)
    directory = multiprocess.directory()
    return [pyvoy.Pyvoy(settings, address, directory, number) for number in range(settings.workers)]


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
                tasks += [asyncio.create_task(self._watch(worker)) for worker in self._workers]
                tasks += [asyncio.create_task(self._run_beside(self._policies.run, stop))]
                await self._over.wait()
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

    async def _watch(self, worker: WorkerProcess) -> None:
        await worker.died
        if not self._draining:
            multiprocess.forget(worker.pid)
            self._fail(worker.end())

    async def _run_beside(self, beside: Background, stop: asyncio.Event) -> None:
        name = getattr(beside, "__qualname__", repr(beside))
        try:
            await beside(stop)
        except Exception as error:
            logger.exception("a background task failed")
            self._fail(f"{name} failed: {error}")
        else:
            if not stop.is_set():
                self._fail(f"{name} ended")

    def _fail(self, sentence: str) -> None:
        logger.error("stopping: something ended on its own", extra={"detail": sentence})
        self._failed = True
        self._over.set()

    async def _drain(self) -> None:
        """Not ready first, so that callers turn away; then GOAWAY; then wait for what is in flight."""
        self._draining = True
        logger.info("draining", extra={"seconds": self._settings.drain_delay + self._settings.drain_timeout})
        for worker in self._workers:
            worker.announce_drain()
        await _first(asyncio.sleep(self._settings.drain_delay), self._hurry)
        drained = asyncio.gather(*(worker.drain(self._settings.drain_timeout) for worker in self._workers))
        await _first(drained, self._hurry)

    async def _stop(self) -> None:
        """A worker that drains by itself has `drain_timeout` for it; a second signal ends that."""
        self._draining = True
        patience = _STOP_SECONDS + (self._settings.drain_timeout if self._ready else 0)
        stopped = asyncio.gather(*(worker.stop(patience) for worker in self._workers))
        await _first(stopped, self._hurry)
        for worker in self._workers:
            worker.kill()
        await stopped

    def live(self) -> bool:
        """False when a worker hangs: restart us."""
        return not self._ready or not any("not reported" in worker.why_not_serving() for worker in self._workers)

    def readiness(self) -> tuple[bool, dict[str, object]]:
        if not self._ready or self._draining:
            return False, {"ready": False, "reasons": ["draining" if self._draining else "starting"]}
        states = {f"worker {worker.number}": worker.why_not_serving() for worker in self._workers}
        reasons = [f"{name} {why}" for name, why in states.items() if why]
        dependencies = {name for worker in self._workers for name in worker.up()}
        up = {name: all(worker.up().get(name, False) for worker in self._workers) for name in sorted(dependencies)}
        detail: dict[str, object] = {"ready": not reasons, "reasons": reasons, "dependencies": up}
        if degraded := {name: how for worker in self._workers for name, how in worker.degraded().items()}:
            detail["degraded"] = degraded
        return not reasons, {**detail, **self._policies.short()}


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
