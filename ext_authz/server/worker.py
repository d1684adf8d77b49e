"""One worker process, whichever server it runs: its settings, its service, and its line to the supervisor.

The line is one end of a socket pair, inherited. Down come messages (`messages.py`), and end-of-file when the supervisor
is gone; up goes a report a second.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TypeAlias

from pydantic import SecretStr

from ext_authz.errors import ConfigError
from ext_authz.observability import log
from ext_authz.observability.metrics import DEPENDENCY_UP
from ext_authz.reload.rollout import Order
from ext_authz.server.health import Health
from ext_authz.server.messages import (
    Drain,
    Inbox,
    Misconfigured,
    Report,
    SupervisorMessage,
    WorkerMessage,
    encode,
)
from ext_authz.server.rpc import CHECK, HEALTH, Method
from ext_authz.server.service import Service, load
from ext_authz.settings import Settings, load_settings

LINE_FD = "TOLLGATE_WORKER_FD"
FACTORY = "TOLLGATE_WORKER_FACTORY"
REPORT_EVERY = 1.0

logger = logging.getLogger(__name__)


Carry: TypeAlias = "Callable[[Settings, Mapping[str, Method], Callable[[], None], asyncio.Event], Awaitable[None]]"
"""A gRPC server: it carries these methods by path, and calls the third argument once it accepts connections. When the
event is set it sends callers away, waits for the calls in flight, for `drain_timeout` at most, and returns."""


async def live(carry: Carry) -> int:
    """A worker process from start to SIGTERM. The exit status."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    worker = Worker.from_environment(leave=partial(os._exit, 1))
    try:
        service, health = await worker.start()
    except ConfigError:
        return 2  # the supervisor was told why
    methods = {CHECK: service.check, HEALTH: health.check}
    try:
        await carry(worker.settings, methods, partial(worker.attend, service, health), stop)
    finally:
        await service.stop()
    return 0


def environment(settings: Settings, factory: str, fd: int) -> dict[str, str]:
    """What a worker reads: every setting, so that the command line's overrides arrive too."""
    values = {f"TOLLGATE_{name.upper()}": _text(value) for name, value in settings if value not in (None, "")}
    return {**values, FACTORY: factory, LINE_FD: str(fd)}


def _text(value: object) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)


class Worker:
    """The service of this process, from start to stop."""

    def __init__(self, settings: Settings, factory: str, line: socket.socket, leave: Callable[[], None]) -> None:
        self.settings = settings
        self._factory = factory
        self._line = line
        self._leave = leave
        self._inbox = Inbox[SupervisorMessage](SupervisorMessage, sender="the supervisor")
        self._unsent = b""
        self._obeying: asyncio.Task[None] | None = None

    @classmethod
    def from_environment(cls, leave: Callable[[], None]) -> Worker:
        """`leave` ends this process without a drain: nobody is left to ask for one."""
        settings = load_settings()
        log.configure(settings.log_level)
        line = socket.socket(fileno=int(os.environ[LINE_FD]))
        line.settimeout(0)
        return cls(settings, os.environ[FACTORY], line, leave)

    async def start(self) -> tuple[Service, Health]:
        """Build and start the service. A wrong setting is told to the supervisor, then raised."""
        try:
            service = load(self._factory)(self.settings)
            await service.start()
        except ConfigError as wrong:
            self._send(Misconfigured(str(wrong)))
            raise
        return service, Health(service.up, service.lacking)

    def attend(self, service: Service, health: Health) -> None:
        """Report from now on, and hear the supervisor. The first report says: ready to be called."""
        asyncio.get_running_loop().add_reader(self._line, self._hear, service, health)
        self._report(service, health)

    def _hear(self, service: Service, health: Health) -> None:
        try:
            heard = self._line.recv(4096)
        except ConnectionResetError:
            heard = b""  # it was killed with a report unread
        if not heard:
            asyncio.get_running_loop().remove_reader(self._line)
            logger.error("the supervisor is gone, leaving")
            self._leave()
        for message in self._inbox.feed(heard):
            self._heed(message, service, health)

    def _heed(self, message: SupervisorMessage, service: Service, health: Health) -> None:
        if isinstance(message, Drain):
            health.draining = True
            self._send(_state(service, health))
        else:
            self._obeying = asyncio.create_task(self._obey(message.order, self._obeying, service, health))

    async def _obey(self, order: Order, before: asyncio.Task[None] | None, service: Service, health: Health) -> None:
        if before is not None:
            await asyncio.wait({before})
        await service.obey(order)
        self._send(_state(service, health))

    def _report(self, service: Service, health: Health) -> None:
        asyncio.get_running_loop().call_later(REPORT_EVERY, self._report, service, health)
        for dependency, answers in health.up().items():
            DEPENDENCY_UP.labels(dependency).set(answers)
        self._send(_state(service, health))

    def _send(self, message: WorkerMessage) -> None:
        """A message that the socket takes in part goes on before the next; one that it does not take is dropped."""
        try:
            self._unsent = self._unsent and self._unsent[self._line.send(self._unsent) :]
            if not self._unsent:
                whole = encode(message)
                self._unsent = whole[self._line.send(whole) :]
        except OSError:
            # Full or closed: the next report says it again, and a closed line is heard as end-of-file.
            logger.debug("a report was not taken")


def _state(service: Service, health: Health) -> Report:
    return Report(
        serving=health.serving,
        up=dict(health.up()),
        lacking=tuple(sorted(service.lacking())),
        causes=dict(service.causes()),
        degraded=dict(service.degraded()),
        policies=dict(service.holding()),
    )
