"""One worker process, whichever server it runs: one policy for its whole life.

It builds its service, reports that it is ready, waits for its listening socket, and serves until SIGTERM. End-of-file
from the supervisor ends it at once: no drain can be announced any more.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import logging
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Protocol, TypeAlias, cast

from pydantic import SecretStr

from ext_authz.environment import ENV_FILE
from ext_authz.errors import ConfigError
from ext_authz.observability import log
from ext_authz.observability.metrics import DEPENDENCY_UP
from ext_authz.policy.faults import PolicyFaults, rendered
from ext_authz.server.messages import (
    CandidateReport,
    Difference,
    Differences,
    Drain,
    Failed,
    HandOver,
    Line,
    Listen,
    Listener,
    Report,
    SupervisorMessage,
)
from ext_authz.server.rpc import CHECK, HEALTH, Health, Method
from ext_authz.settings import Settings, load_settings

LINE_FD = "TOLLGATE_WORKER_FD"
FACTORY = "TOLLGATE_WORKER_FACTORY"
APP = "ext_authz.app:build"
"""The factory that every worker process loads; tests name another."""
REPORT_EVERY = 1.0

_LOOK_EVERY = 0.05
"""Seconds between two reports until it listens: a start takes no longer than needed."""
_GOAWAY_SECONDS = 0.02
"""From the stop until the server's threads have sent GOAWAY on every connection; nothing says when they have."""
_COLLECT_AFTER = 50_000
"""New objects until the garbage collector runs. With Python's 700 it takes 5 % of a busy worker, and its walks over
everything make the slowest checks three times slower."""
_DIFFERENCES = 50
"""In one message."""
_FAULTS = 100
"""Of a policy that are reported."""

logger = logging.getLogger(__name__)


class Service(Protocol):
    """One worker's authorizer. Servers know nothing else about it. What is asked every second does no I/O."""

    async def start(self) -> None:
        """Open connections. A dependency that is down now is not an error: `up` reports it."""
        ...

    async def stop(self) -> None:
        """Send what is still in memory and close connections."""
        ...

    async def check(self, message: bytes) -> bytes:
        """Answer one CheckRequest. Never raises for anything a caller sends."""
        ...

    def up(self) -> Mapping[str, bool]:
        """Dependency name to whether it works. Asked every second."""
        ...

    def lacking(self) -> Collection[str]:
        """Of those that do not work, the ones without which no check gets a verdict. Asked every second."""
        ...

    def causes(self) -> Mapping[str, str]:
        """Dependency that does not work to why, in one sentence, where that is known. Asked every second."""
        ...

    def degraded(self) -> Mapping[str, str]:
        """Dependency that is away to the failure mode in force, in words. Asked every second."""
        ...

    def policy(self) -> str:
        """The hash of its policy."""
        ...

    def candidate(self) -> CandidateReport | None:
        """What became of the candidate policy; None without one."""
        ...

    def differences(self) -> Sequence[Difference]:
        """What the candidate decided otherwise since the last call. Asked every second."""
        ...


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
    line = Line[SupervisorMessage](
        socket.socket(fileno=int(os.environ[LINE_FD])), SupervisorMessage, sender="the supervisor"
    )
    try:
        settings = load_settings(Settings)
        log.configure(settings.log_level)
        await Worker(line, _load(os.environ[FACTORY])(settings)).run(settings, serve, stop)
    except ConfigError as wrong:
        line.send(Failed(str(wrong), misconfigured=True, policy_faults=_faults(wrong)))
        return 2
    except Exception as bug:
        line.send(Failed(f"{type(bug).__name__}: {bug}"))
        logger.exception("a worker failed")
        return 1
    return 0


def _load(factory: str) -> Callable[[Settings], Service]:
    """Import `module:function`."""
    module, _, name = factory.partition(":")
    return cast("Callable[[Settings], Service]", getattr(importlib.import_module(module), name))


def _faults(wrong: ConfigError) -> tuple[str, ...]:
    return tuple(rendered(fault) for fault in wrong.faults[:_FAULTS]) if isinstance(wrong, PolicyFaults) else ()


def environment(settings: Settings, factory: str) -> dict[str, str]:
    """What a worker reads: every setting, also of the command line and the env file, which it does not read."""
    values = {f"TOLLGATE_{name.upper()}": _text(value) for name, value in settings if value not in (None, "")}
    return {**values, ENV_FILE: os.devnull, FACTORY: factory}


def _text(value: object) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)


class Worker:
    """The service of this process, and its line to the supervisor."""

    def __init__(
        self, line: Line[SupervisorMessage], service: Service, leave: Callable[[int], object] = os._exit
    ) -> None:
        """`leave` ends the process without a drain."""
        self._line = line
        self._service = service
        self._health = Health(service.up, service.lacking)
        self._leave = leave
        self._listener: socket.socket | None = None
        self._told_to_listen = asyncio.Event()
        self._listening = False
        self._last = Report()

    async def run(self, settings: Settings, serve: Serve, stop: asyncio.Event) -> None:
        """Until `stop`."""
        await self._service.start()
        try:
            _freeze()
            self.attend()
            await _first(self._told_to_listen, stop)
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
        self._send_report()
        self._look(silent=0)

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
            for message, descriptor in self._line.receive():
                self._heed(message, descriptor)
        except EOFError:
            asyncio.get_running_loop().remove_reader(self._line.end)
            logger.error("the supervisor is gone: stopping")  # noqa: TRY400 - no traceback
            self._leave(1)

    def _heed(self, message: SupervisorMessage, descriptor: int | None) -> None:
        match message:
            case Drain():
                self._health.draining = True
                self._send_report()
            case HandOver():
                if self._listener is not None:
                    self._line.send(Listener(), self._listener.fileno())
            case Listen():
                self._listener = None if descriptor is None else socket.socket(fileno=descriptor)
                self._told_to_listen.set()

    def _look(self, silent: float) -> None:
        """Report every second; until it listens, as soon as something changed."""
        if silent >= REPORT_EVERY or (not self._listening and self._report() != self._last):
            self._send_report()
            silent = 0
        self._send_differences()
        pause = REPORT_EVERY if self._listening else _LOOK_EVERY
        asyncio.get_running_loop().call_later(pause, self._look, silent + pause)

    def _send_report(self) -> None:
        self._last = self._report()
        self._line.send(self._last)
        for dependency, works in self._last.up.items():
            DEPENDENCY_UP.labels(dependency).set(works)

    def _send_differences(self) -> None:
        differences = tuple(self._service.differences())
        for start in range(0, len(differences), _DIFFERENCES):
            self._line.send(Differences(differences[start : start + _DIFFERENCES]))

    def _report(self) -> Report:
        return Report(
            serving=self._health.serving,
            listening=self._listening,
            policy=self._service.policy(),
            candidate=self._service.candidate(),
            up=dict(self._service.up()),
            lacking=tuple(sorted(self._service.lacking())),
            causes=dict(self._service.causes()),
            degraded=dict(self._service.degraded()),
        )


def _freeze() -> None:
    """What was made until now lives as long as the worker: the garbage collector need not walk it again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER)


async def _first(*events: asyncio.Event) -> None:
    waiting = [asyncio.create_task(event.wait()) for event in events]
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()
