"""`tollgate serve`: worker processes, background tasks and the admin listener, started, watched and drained.

A worker or a background task that ends on its own is started again, which a log line and a metric report. What ends too
often ends the process: the rest is drained and the exit status is 1, so that the process manager sees it.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path

from ext_authz.clock import SystemClock
from ext_authz.errors import ConfigError
from ext_authz.observability import log
from ext_authz.restarts import GivenUp, restarting
from ext_authz.server import admin, ports
from ext_authz.server.generations import Generations
from ext_authz.server.pool import Pool, first
from ext_authz.server.process import WorkerDied
from ext_authz.server.worker import APP
from ext_authz.settings import Settings

Background = Callable[[asyncio.Event], Awaitable[None]]
"""Runs beside the workers until the event is set."""

H2CORN, GRPCIO = "ext_authz.server.h2corn", "ext_authz.server.grpcio"

_STOP_SECONDS = 5.0

logger = logging.getLogger(__name__)


async def serve(
    read: Callable[[], Settings],
    background: Sequence[Background] = (),
    *,
    env_file: Path | None = None,
    factory: str = APP,
) -> int:
    """Serve until SIGTERM or SIGINT, and return the exit status; a second signal stops at once.

    `read`: the settings as they are now, from the environment and `env_file`. `multiprocess.prepare()` must have run
    before this module was imported.

    Raises:
        ConfigError: a port or socket is taken, a TLS file is wrong, or a worker finds a setting or the policy wrong.
    """
    settings = read()
    log.configure(settings.log_level)
    ports.ensure_tls_usable(settings)
    generations = Generations(settings, read, env_file, SystemClock())
    supervisor = _supervisor(settings, generations, factory)
    names = frozenset(name.strip().lower() for name in (settings.admin_names or "").split(","))
    with (
        ports.claimed("LISTEN", settings.listen_host, settings.listen_port),
        ports.bound("ADMIN", settings.admin_host, settings.admin_port) as tcp,
        ports.unix_socket("ADMIN_SOCKET", settings.control_socket) as unix,
    ):
        async with (
            admin.listening(tcp, admin.public(supervisor, generations, names)),
            admin.listening(unix, admin.private(generations)),
        ):
            return await supervisor.run(background)


def _supervisor(settings: Settings, generations: Generations, factory: str) -> Supervisor:
    module, over = choose_server(settings), asyncio.Event()
    command = [sys.executable, "-m", module]
    pool = Pool(command, factory, over, hands_over=module == H2CORN, differences=generations.keep)
    return Supervisor(settings, pool, generations, over)


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

    def __init__(self, settings: Settings, pool: Pool, generations: Generations, over: asyncio.Event) -> None:
        self._settings = settings
        self._pool = pool
        self._generations = generations
        self._ready = False
        self._draining = False
        self._failed = False
        self._over = over
        self._hurry = asyncio.Event()

    async def run(self, background: Sequence[Background]) -> int:
        self._catch_signals()
        stop = asyncio.Event()
        tasks = [asyncio.create_task(self._run_beside(beside, stop)) for beside in background]
        try:
            if await self._start():
                tasks.append(asyncio.create_task(self._run_beside(self._generations.run, self._over)))
                await self._keep()
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
        loop.add_signal_handler(signal.SIGHUP, self._generations.ask)

    def _on_signal(self) -> None:
        if self._over.is_set():
            self._hurry.set()
        self._over.set()

    async def _start(self) -> bool:
        """True once every worker listens; False when a signal or a death came first."""
        started = asyncio.create_task(self._generations.start(self._pool))
        await first(started, self._over)
        if not started.done():
            started.cancel()
            await asyncio.wait({started})
            return False
        try:
            await started
        except (WorkerDied, OSError) as failure:
            self._fail(str(failure))
            return False
        self._ready = True
        logger.info("serving", extra={"address": self._settings.listen_host, "port": self._settings.listen_port})
        return True

    async def _keep(self) -> None:
        """Until all is over."""
        try:
            await self._pool.keep()
        except* GivenUp as reasons:
            self._fail(str(reasons.exceptions[0]))

    async def _run_beside(self, beside: Background, stop: asyncio.Event) -> None:
        try:
            await restarting(_name(beside), partial(beside, stop), stop)
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
        self._pool.announce_drain()
        await first(asyncio.sleep(self._settings.drain_delay), self._hurry)

    async def _stop(self) -> None:
        """A worker has `drain_timeout` for what is in flight; a second signal ends that."""
        self._draining = True
        self._over.set()
        await self._pool.stop(_STOP_SECONDS + (self._settings.drain_timeout if self._ready else 0), self._hurry)

    def live(self) -> bool:
        """False when a worker hangs: restart us."""
        return not self._ready or not any(worker.hangs for worker in self._pool.workers)

    def readiness(self) -> tuple[bool, dict[str, object]]:
        """Ready while a worker serves and none hangs: one that hangs takes connections, one that has died does not."""
        if not self._ready or self._draining:
            return False, {"ready": False, "reasons": ["draining" if self._draining else "starting"]}
        workers = self._pool.workers
        ready = self.live() and any(worker.serves for worker in workers)
        states = {f"worker {worker.number}": worker.why_not_serving() for worker in workers}
        reasons = [f"{name} {why}" for name, why in states.items() if why]
        dependencies = {name for worker in workers for name in worker.report.up}
        up = {name: all(worker.report.up.get(name, True) for worker in workers) for name in sorted(dependencies)}
        detail: dict[str, object] = {"ready": ready, "reasons": reasons, "dependencies": up}
        if causes := {name: cause for worker in workers for name, cause in worker.report.causes.items()}:
            detail["causes"] = causes
        if degraded := {name: how for worker in workers for name, how in worker.report.degraded.items()}:
            detail["degraded"] = degraded
        return ready, {**detail, **self._generations.short()}


def _name(beside: Background) -> str:
    """A method is called run as often as not: with its class."""
    return getattr(beside, "__qualname__", repr(beside)).rpartition("<locals>.")[2]


async def _end(tasks: Sequence[asyncio.Task[None]]) -> None:
    if tasks:
        _, late = await asyncio.wait(tasks, timeout=_STOP_SECONDS)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
