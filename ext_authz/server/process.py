"""One worker process as the supervisor sees it: started, heard, drained, stopped."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time
from asyncio.subprocess import Process
from collections.abc import Mapping
from typing import Protocol

import msgspec

from ext_authz.errors import ConfigError
from ext_authz.reload.rollout import Holding, Order, Role
from ext_authz.server.line import Said, Told
from ext_authz.server.worker import environment
from ext_authz.settings import Settings

SILENT_SECONDS = 5.0
"""A worker reports every second; this long without a word and its event loop hangs."""

_START_SECONDS = 60.0
_POLL_SECONDS = 0.05


class WorkerDied(Exception):
    """A worker ended on its own, or never got ready. One sentence; its own last words are on our stderr already."""


class Server(Protocol):
    """How one kind of server is run: all the supervisor knows of pyvoy and grpcio."""

    def command(self) -> list[str]: ...

    def environment(self) -> Mapping[str, str]: ...

    async def accepts(self) -> bool:
        """The listener takes connections."""
        ...

    async def drain(self, seconds: float) -> None:
        """Send connections away, and return when no call is in flight or the time is over."""
        ...


class WorkerProcess:
    """Never restarted: a worker that dies ends `serve` (docs/adr/0001-transport.md says why)."""

    def __init__(self, number: int, server: Server) -> None:
        self.number = number
        self._server = server
        self._said: Said | None = None
        self._heard_at = 0.0

    @property
    def pid(self) -> int:
        return self._process.pid

    async def start(self, settings: Settings, factory: str) -> None:
        """Start the process and return at once."""
        ours, theirs = socket.socketpair()
        with theirs:
            told = environment(settings, factory, theirs.fileno())
            self._process = await self._spawn(told, theirs.fileno())
        reader, self._line = await asyncio.open_connection(sock=ours)
        self.died = asyncio.create_task(self._process.wait())
        self._listening = asyncio.create_task(self._listen(reader))

    async def _spawn(self, told: Mapping[str, str], fd: int) -> Process:
        # A session of its own: Ctrl-C reaches the supervisor alone, and the supervisor drains.
        return await asyncio.create_subprocess_exec(
            *self._server.command(),
            env={**os.environ, **self._server.environment(), **told},
            pass_fds=(fd,),
            stdout=sys.stderr.fileno(),
            start_new_session=True,
        )

    async def until_ready(self) -> None:
        """Wait until it takes calls and its service has reported.

        Raises:
            ConfigError: it says that a setting is wrong.
            WorkerDied: it ended, or was not ready within a minute.
        """
        deadline = time.monotonic() + _START_SECONDS
        while not (self._said and not self._said.wrong and await self._server.accepts()):
            if self.died.done():
                await self._listening
                raise ConfigError(self._said.wrong) if self._said and self._said.wrong else WorkerDied(self.end())
            if time.monotonic() > deadline:
                raise WorkerDied(f"worker {self.number} was not ready within {_START_SECONDS:.0f} seconds")
            await asyncio.sleep(_POLL_SECONDS)

    def end(self) -> str:
        return f"worker {self.number} (process {self.pid}) ended with status {self._process.returncode}"

    def why_not_serving(self) -> str:
        """Empty when it serves."""
        if self.died.done():
            return "ended"
        if time.monotonic() - self._heard_at > SILENT_SECONDS:
            return f"has not reported for {SILENT_SECONDS:.0f} seconds"
        if self._said is not None and self._said.serving:
            return ""
        missing = [name for name, answers in self.up().items() if not answers]
        return f"waits for {', '.join(missing)}" if missing else "drains"

    def up(self) -> Mapping[str, bool]:
        return self._said.up if self._said else {}

    def degraded(self) -> Mapping[str, str]:
        return self._said.degraded if self._said else {}

    def holding(self, role: Role) -> Holding:
        """What it has in that role, as last reported."""
        return self._said.policies.get(role, Holding()) if self._said else Holding()

    def announce_drain(self) -> None:
        self._tell(Told(drain=True))

    def order(self, order: Order) -> None:
        """It will report when it is done."""
        self._tell(Told(order=order))

    def _tell(self, what: Told) -> None:
        if not self.died.done():
            self._line.write(msgspec.json.encode(what) + b"\n")

    async def drain(self, seconds: float) -> None:
        if not self.died.done():
            await self._server.drain(seconds)

    async def stop(self, seconds: float) -> None:
        """Ask it to end, and end it when it has not within `seconds`."""
        if not self.died.done():
            self._process.terminate()
            await asyncio.wait((self.died,), timeout=seconds)
        self.kill()
        await asyncio.gather(self.died, self._listening)
        self._line.close()

    def kill(self) -> None:
        if not self.died.done():
            self._process.kill()

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        try:
            while line := await reader.readline():
                self._said = msgspec.json.decode(line, type=Said)
                self._heard_at = time.monotonic()
        except ConnectionResetError:
            return  # it was killed; `died` says so
