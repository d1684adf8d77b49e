"""One worker process as the supervisor sees it: started, heard, drained, stopped."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
import time
from asyncio.subprocess import Process
from collections.abc import Mapping

from ext_authz.errors import ConfigError
from ext_authz.reload.rollout import Holding, Order, Role
from ext_authz.server.messages import (
    Drain,
    Inbox,
    Misconfigured,
    Reload,
    Report,
    SupervisorMessage,
    WorkerMessage,
    encode,
)
from ext_authz.server.worker import environment
from ext_authz.settings import Settings

SILENT_SECONDS = 5.0
"""A worker reports every second; this long without a word and its event loop hangs."""

_START_SECONDS = 60.0
_POLL_SECONDS = 0.05
_CHUNK = 65_536

logger = logging.getLogger(__name__)


class WorkerDied(Exception):
    """A worker ended on its own, or never got ready. One sentence; its own last words are on our stderr already."""


class WorkerProcess:
    """One place among the workers. `start` again when its process has died."""

    def __init__(self, number: int, module: str) -> None:
        """`module`: what the process runs."""
        self.number = number
        self._command = [sys.executable, "-m", module]
        self._forget()

    def _forget(self) -> None:
        """What the process before said, if there was one."""
        self._report, self._heard_at, self._wrong = Report(), 0.0, ""

    @property
    def pid(self) -> int:
        return self._process.pid

    async def start(self, settings: Settings, factory: str) -> None:
        """Start a process and return at once."""
        self._forget()
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = await self._spawn(environment(settings, factory, theirs.fileno()), theirs.fileno())
        reader, self._line = await asyncio.open_connection(sock=ours)
        self.died = asyncio.create_task(self._process.wait())
        self._listening = asyncio.create_task(self._listen(reader, self._line))

    async def _spawn(self, told: Mapping[str, str], fd: int) -> Process:
        # A session of its own: Ctrl-C reaches the supervisor alone, and the supervisor drains.
        return await asyncio.create_subprocess_exec(
            *self._command,
            env={**os.environ, **told},
            pass_fds=(fd,),
            stdout=sys.stderr.fileno(),
            start_new_session=True,
        )

    async def until_ready(self) -> None:
        """Wait until its first report: by then it takes calls.

        Raises:
            ConfigError: it says that a setting is wrong.
            WorkerDied: it ended, or was not ready within a minute.
        """
        deadline = time.monotonic() + _START_SECONDS
        while not (self._heard_at and not self._wrong):
            if self.died.done():
                await self._listening
                raise ConfigError(self._wrong) if self._wrong else WorkerDied(self.end())
            if time.monotonic() > deadline:
                raise WorkerDied(f"worker {self.number} was not ready within {_START_SECONDS:.0f} seconds")
            await asyncio.sleep(_POLL_SECONDS)

    def end(self) -> str:
        why = f": {self._wrong}" if self._wrong else ""
        return f"worker {self.number} (process {self.pid}) ended with status {self._process.returncode}{why}"

    @property
    def misconfigured(self) -> bool:
        """It found a setting or its policy wrong, and did not start."""
        return bool(self._wrong)

    @property
    def serves(self) -> bool:
        """It gives checks a verdict, as far as is known here."""
        return self._report.serving and not self.hangs and not self.died.done()

    @property
    def hangs(self) -> bool:
        """It has started and lives, and does not report any more."""
        return bool(self._heard_at) and not self.died.done() and time.monotonic() - self._heard_at > SILENT_SECONDS

    def why_not_serving(self) -> str:
        """For people; empty when it serves."""
        if self.died.done():
            return self._wrong or "ended"
        if not self._heard_at:
            return "starts"
        if self.hangs:
            return f"has not reported for {SILENT_SECONDS:.0f} seconds"
        if self._report.serving:
            return ""
        missing = [self._described(name) for name in self._report.lacking]
        return f"waits for {', '.join(missing)}" if missing else "drains"

    def _described(self, dependency: str) -> str:
        cause = self._report.causes.get(dependency)
        return f"{dependency} ({cause})" if cause else dependency

    def up(self) -> Mapping[str, bool]:
        return self._report.up

    def causes(self) -> Mapping[str, str]:
        return self._report.causes

    def degraded(self) -> Mapping[str, str]:
        return self._report.degraded

    def holding(self, role: Role) -> Holding:
        """What it has in that role, as last reported."""
        return self._report.policies.get(role, Holding())

    def announce_drain(self) -> None:
        self._send(Drain())

    def order(self, order: Order) -> None:
        """It will report when it is done."""
        self._send(Reload(order))

    def _send(self, message: SupervisorMessage) -> None:
        if not self.died.done():
            self._line.write(encode(message))

    async def stop(self, seconds: float) -> None:
        """Ask it to answer what is in flight and to end; end it when it has not within `seconds`."""
        if not self.died.done():
            self._process.terminate()
            await asyncio.wait((self.died,), timeout=seconds)
        self.kill()
        await asyncio.gather(self.died, self._listening)

    def kill(self) -> None:
        if not self.died.done():
            self._process.kill()

    async def _listen(self, reader: asyncio.StreamReader, line: asyncio.StreamWriter) -> None:
        """Until the process ends. One that does not want to be heard any more, and lives on, is ended."""
        inbox = Inbox[WorkerMessage](WorkerMessage, sender=f"worker {self.number}")
        try:
            while data := await reader.read(_CHUNK):
                for message in inbox.feed(data):
                    self._take(message)
        except ConnectionResetError:
            pass  # it was killed; `died` says so
        _, alive = await asyncio.wait({self.died}, timeout=SILENT_SECONDS)
        if alive:
            logger.error("a worker cannot be heard any more: killed", extra={"worker": self.number, "pid": self.pid})
            self.kill()
        line.close()

    def _take(self, message: WorkerMessage) -> None:
        if isinstance(message, Misconfigured):
            self._wrong = message.sentence
        else:
            self._report, self._heard_at = message, time.monotonic()
