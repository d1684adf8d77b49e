"""One worker process, whichever server it runs: its settings, its service, and its line to the supervisor.

The line is one end of a socket pair, inherited. Down comes a JSON line when the drain begins or another policy is to be
put in force, and end-of-file when the supervisor is gone; up goes a JSON line a second: serving or not, which
dependency answers, which policy is in force.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable

import msgspec
from pydantic import SecretStr

from ext_authz.errors import ConfigError
from ext_authz.observability import log
from ext_authz.observability.metrics import DEPENDENCY_UP
from ext_authz.reload.rollout import Order
from ext_authz.server.health import Health
from ext_authz.server.line import Said, Told
from ext_authz.server.service import Service, load
from ext_authz.settings import Settings, load_settings

LINE_FD = "TOLLGATE_WORKER_FD"
FACTORY = "TOLLGATE_WORKER_FACTORY"
REPORT_EVERY = 1.0

logger = logging.getLogger(__name__)


def environment(settings: Settings, factory: str, fd: int) -> dict[str, str]:
    """What `Worker.from_environment` reads: every setting, so that the command line's overrides arrive too."""
    values = {f"TOLLGATE_{name.upper()}": _text(value) for name, value in settings if value is not None}
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
        self._heard = b""
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
            self._say(Said(wrong=str(wrong)))
            raise
        return service, Health(service.up)

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
        *lines, self._heard = (self._heard + heard).split(b"\n")
        for line in lines:
            self._heed(msgspec.json.decode(line, type=Told), service, health)

    def _heed(self, told: Told, service: Service, health: Health) -> None:
        if told.drain:
            health.draining = True
            self._say(_state(service, health))
        if told.order is not None:
            self._obeying = asyncio.create_task(self._obey(told.order, self._obeying, service, health))

    async def _obey(self, order: Order, before: asyncio.Task[None] | None, service: Service, health: Health) -> None:
        if before is not None:
            await before
        await service.obey(order)
        self._say(_state(service, health))

    def _report(self, service: Service, health: Health) -> None:
        for dependency, answers in health.up().items():
            DEPENDENCY_UP.labels(dependency).set(answers)
        self._say(_state(service, health))
        asyncio.get_running_loop().call_later(REPORT_EVERY, self._report, service, health)

    def _say(self, what: Said) -> None:
        try:
            self._line.send(msgspec.json.encode(what) + b"\n")
        except OSError:
            # Full or closed: the next report says it again, and a closed line is heard as end-of-file.
            logger.debug("a report was not taken")


def _state(service: Service, health: Health) -> Said:
    return Said(health.serving, dict(health.up()), dict(service.degraded()), dict(service.holding()))
