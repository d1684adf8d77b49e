"""`tollgate serve`: worker processes, background tasks and the admin listener, started, watched and drained.

A worker or a background task that ends on its own is started again, which a log line and a metric report. What ends too
often ends the process: the rest is drained and the exit status is 1, so that the process manager sees it.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import signal
from collections import ChainMap
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

from ext_authz.clock import SystemClock
from ext_authz.db.backoff import first, pause
from ext_authz.errors import ConfigError
from ext_authz.observability import log
from ext_authz.restarts import GivenUp, restarting
from ext_authz.server import admin, ports
from ext_authz.server.generations import Generations
from ext_authz.server.pool import GRPCIO, H2CORN, Pool
from ext_authz.server.sources import Rejected
from ext_authz.server.worker import APP
from ext_authz.settings import Settings
from ext_authz.tls import ensure_tls_usable

Background = Callable[[asyncio.Event], Awaitable[None]]
"""Runs beside the workers until the event is set."""

_STOP_SECONDS = 5.0

logger = logging.getLogger(__name__)


async def serve(
    read: Callable[[], Settings],
    background: Mapping[str, Background],
    *,
    env_file: Path | None = None,
    factory: str = APP,
) -> int:
    """Serve until SIGTERM or SIGINT, and return the exit status; a second signal stops at once.

    `read`: the settings as they are now, from the environment and `env_file`. `background`: by name, as metrics and
    logs have it. `multiprocess.prepare()` must have run before this module was imported.

    Raises:
        ConfigError: a port or socket is taken, a TLS file is wrong, or a worker finds a setting or the policy wrong.
    """
    settings = read()
    log.configure(settings.log_level)
    ensure_tls_usable(settings)
    over = asyncio.Event()
    pool = Pool(choose_server(settings), factory, over)
    generations = Generations(pool, settings, read, env_file, SystemClock())
    supervisor = Supervisor(settings, pool, generations, over)
    with (
        ports.claimed("LISTEN", settings.listen_host, settings.listen_port),
        ports.bound("ADMIN", settings.admin_host, settings.admin_port) as tcp,
        ports.unix_socket("ADMIN_SOCKET", settings.control_socket) as unix,
    ):
        async with (
            admin.listening(tcp, admin.public(supervisor.live, supervisor.ready, generations, settings.accepted_names)),
            admin.listening(unix, admin.private(generations)),
        ):
            return await supervisor.run(background)


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
        self._failed = False
        self._over = over
        self._hurry = asyncio.Event()

    async def run(self, background: Mapping[str, Background]) -> int:
        self._catch_signals()
        stop = asyncio.Event()
        tasks = [self._beside(name, work, stop) for name, work in background.items()]
        try:
            if await self._start():
                tasks.append(self._beside("generations", self._generations.run, self._over))
                places = range(self._settings.workers)
                tasks += [asyncio.create_task(self._watched(self._pool.keep(place))) for place in places]
                await self._over.wait()
                await self._drain()
        finally:
            await self._stop()
            # Only now: until the last check is answered, revocations must keep arriving.
            stop.set()
            with suppress(TimeoutError):
                await asyncio.wait_for(asyncio.gather(*tasks), _STOP_SECONDS)
        return 1 if self._failed else 0

    def _catch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)
        loop.add_signal_handler(signal.SIGHUP, self._generations.asked.set)

    def _on_signal(self) -> None:
        if self._over.is_set():
            self._hurry.set()
        self._over.set()

    async def _start(self) -> bool:
        """True once every worker listens; False when a signal or a death came first."""
        starting = asyncio.create_task(self._generations.start())
        await first(starting, self._over.wait())
        starting.cancel()  # unless it is done
        try:
            await starting
        except asyncio.CancelledError:
            return False
        except Rejected as wrong:
            if not wrong.again:
                raise ConfigError(str(wrong)) from None
            self._fail(str(wrong))
            return False
        self._ready = True
        logger.info("serving", extra={"address": self._settings.listen_host, "port": self._settings.listen_port})
        return True

    def _beside(self, name: str, work: Background, stop: asyncio.Event) -> asyncio.Task[None]:
        return asyncio.create_task(self._watched(restarting(name, partial(work, stop), stop)))

    async def _watched(self, work: Awaitable[None]) -> None:
        """All ends with it, unless it ends in good order."""
        try:
            await work
        except GivenUp as reason:
            self._fail(str(reason))
        except Exception as bug:
            logger.exception("a task failed")
            self._fail(f"{type(bug).__name__}: {bug}")

    def _fail(self, sentence: str) -> None:
        logger.error("stopping: something ended on its own", extra={"detail": sentence})
        self._failed = True
        self._over.set()

    async def _drain(self) -> None:
        """Not ready first, so that callers turn away; `_stop` then lets each worker answer what is in flight."""
        logger.info("draining", extra={"seconds": self._settings.drain_delay + self._settings.drain_timeout})
        self._pool.announce_drain()
        await pause(self._hurry, self._settings.drain_delay)

    async def _stop(self) -> None:
        """A worker has `drain_timeout` for what is in flight; a second signal ends that."""
        self._over.set()
        await self._pool.stop(_STOP_SECONDS + (self._settings.drain_timeout if self._ready else 0), self._hurry)

    def live(self) -> tuple[bool, dict[str, object]]:
        """False while a worker hangs. It is replaced soon; if this lasts, restart us."""
        live = not self._ready or not any(worker.hangs for worker in self._pool.workers)
        return live, {"live": live}

    def ready(self) -> tuple[bool, dict[str, object]]:
        """Ready while a worker serves and none hangs: one that hangs takes connections, one that has died does not."""
        if not self._ready or self._over.is_set():
            return False, {"ready": False, "reasons": ["draining" if self._over.is_set() else "starting"]}
        workers = self._pool.workers
        ready = self.live()[0] and any(worker.serves for worker in workers)
        reasons = [f"worker {worker.number} {why}" for worker in workers if (why := worker.why_not_serving())]
        reports = [worker.report for worker in workers]
        names = sorted({name for report in reports for name in report.up})
        up = {name: all(report.up.get(name, True) for report in reports) for name in names}
        causes = dict(ChainMap(*(report.causes for report in reports)))
        degraded = dict(ChainMap(*(report.degraded for report in reports)))
        found = {name: value for name, value in (("causes", causes), ("degraded", degraded)) if value}
        return ready, {"ready": ready, "reasons": reasons, "dependencies": up, **found, **self._generations.short()}
