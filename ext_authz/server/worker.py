"""One worker process, whichever server it runs: one policy for its whole life.

It builds its service, reports that it is ready, waits for its listening socket, and serves until SIGTERM. End-of-file
from the supervisor ends it at once: no drain can be announced any more.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import pkgutil
import signal
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol, TypeAlias

from msgspec.structs import replace
from pydantic import SecretStr

from ext_authz.db.backoff import first
from ext_authz.environment import ENV_FILE
from ext_authz.errors import ConfigError
from ext_authz.observability import log
from ext_authz.observability.metrics import DEPENDENCY_UP
from ext_authz.policy.faults import PolicyFaults
from ext_authz.server.messages import Difference, Differences, Failed, Line, Report, SupervisorMessage, sentences
from ext_authz.server.rpc import CHECK, HEALTH, Health, Method
from ext_authz.server.sources import Role
from ext_authz.settings import Settings, load_settings

LINE_FD = "TOLLGATE_WORKER_FD"
FACTORY = "TOLLGATE_WORKER_FACTORY"
APP = "ext_authz.app:build"
"""The factory that every worker process loads; tests name another."""
REPORT_EVERY = 1.0

_STARTING_EVERY = 0.05
"""Seconds between two reports until it listens: a start takes no longer than needed."""
_GOAWAY_SECONDS = 0.02
"""From the stop until the server's threads have sent GOAWAY on every connection; nothing says when they have."""
_COLLECT_AFTER = 50_000
"""New objects until the garbage collector runs. With Python's 700 it takes 5 % of a busy worker, and its walks over
everything make the slowest checks three times slower."""
_DIFFERENCES = 50
"""In one message."""

logger = logging.getLogger(__name__)


class Service(Protocol):
    """One worker's authorizer. Servers know nothing else about it."""

    async def start(self) -> None:
        """Open connections. A dependency that is down now is not an error: the report says so."""

    async def stop(self) -> None:
        """Send what is still in memory and close connections."""

    async def check(self, message: bytes) -> bytes:
        """Answer one CheckRequest. Never raises for anything a caller sends."""

    def report(self) -> Report:
        """What it has and lacks; whether it serves and listens is not for it to say. Asked every second: no I/O."""

    def differences(self) -> Sequence[Difference]:
        """What the candidate decided otherwise since the last call. Asked every second."""


Serve: TypeAlias = (
    "Callable[[Settings, Mapping[str, Method], socket.socket | None, Callable[[], None], asyncio.Event],"
    " Awaitable[None]]"
)
"""A gRPC server: it carries these methods by path, and calls the function once it accepts connections, from the socket
if there is one. When the event is set it sends callers away, waits for the calls in flight, for `drain_timeout` at
most, and returns."""


async def live(serve: Serve) -> int:
    """A worker process from start to SIGTERM. The exit status."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    end = socket.socket(fileno=int(os.environ[LINE_FD]))
    line = Line[SupervisorMessage](end, SupervisorMessage, sender="the supervisor", descriptors=1)
    try:
        settings = load_settings(Settings)
        log.configure(settings.log_level)
        service: Service = pkgutil.resolve_name(os.environ[FACTORY])(settings)
        await Worker(line, service).run(settings, serve, stop)
    except ConfigError as wrong:
        line.send(Failed(sentences(wrong), Role.POLICY if isinstance(wrong, PolicyFaults) else None))
        return 2
    except Exception as bug:
        line.send(Failed((f"{type(bug).__name__}: {bug}",), again=True))
        logger.exception("a worker failed")
        return 1
    return 0


def environment(settings: Settings, factory: str) -> dict[str, str]:
    """What a worker reads: every setting, also of the command line and the env file, which it does not read."""
    values = {
        f"TOLLGATE_{name.upper()}": value.get_secret_value() if isinstance(value, SecretStr) else str(value)
        for name, value in settings
        if value not in (None, "")
    }
    return {**values, ENV_FILE: os.devnull, FACTORY: factory}


class Worker:
    """The service of this process, and its line to the supervisor."""

    def __init__(
        self, line: Line[SupervisorMessage], service: Service, leave: Callable[[int], object] = os._exit
    ) -> None:
        """`leave` ends the process without a drain."""
        self._line = line
        self._service = service
        self._health = Health(service.report)
        self._leave = leave
        self._listener: socket.socket | None = None
        self._may_listen = asyncio.Event()
        self._listening = False

    async def run(self, settings: Settings, serve: Serve, stop: asyncio.Event) -> None:
        """Until `stop`."""
        await self._service.start()
        try:
            _freeze()
            self.attend()
            await first(self._may_listen.wait(), stop.wait())
            if not stop.is_set():
                methods = {CHECK: self._service.check, HEALTH: self._health.check}
                leaving = asyncio.create_task(self._leave_when(stop))
                await serve(settings, methods, self._listener, self.listens, stop)
                await leaving
        finally:
            await self._service.stop()
            self._send_differences()

    def attend(self) -> None:
        """Report from now on, and read messages of the supervisor."""
        asyncio.get_running_loop().add_reader(self._line.end, self._hear)
        self._report_on()

    def listens(self) -> None:
        """It accepts connections now."""
        self._listening = True
        self._send_report()

    async def _leave_when(self, stop: asyncio.Event) -> None:
        await stop.wait()
        await asyncio.sleep(_GOAWAY_SECONDS)
        self._listening = False
        self._send_report()

    def _hear(self) -> None:
        try:
            for message, descriptors in self._line.receive():
                if message == "drain":
                    self._health.draining = True
                    self._send_report()
                else:
                    self._listener = socket.socket(fileno=descriptors[0]) if descriptors else None
                    self._may_listen.set()
        except EOFError:
            asyncio.get_running_loop().remove_reader(self._line.end)
            logger.error("the supervisor is gone: stopping")  # noqa: TRY400 - no traceback
            self._leave(1)

    def _report_on(self) -> None:
        self._send_report()
        self._send_differences()
        pause = REPORT_EVERY if self._listening else _STARTING_EVERY
        asyncio.get_running_loop().call_later(pause, self._report_on)

    def _send_report(self) -> None:
        report = self._service.report()
        self._line.send(replace(report, serving=self._health.serving, listening=self._listening))
        for dependency, works in report.up.items():
            DEPENDENCY_UP.labels(dependency).set(works)

    def _send_differences(self) -> None:
        differences = tuple(self._service.differences())
        for start in range(0, len(differences), _DIFFERENCES):
            self._line.send(Differences(differences[start : start + _DIFFERENCES]))


def _freeze() -> None:
    """What was made until now lives as long as the worker: the garbage collector need not walk it again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER)
