"""One worker process as the supervisor sees it: started, observed, set to listen, drained, stopped."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress

from ext_authz.errors import ConfigError, TollgateError
from ext_authz.server.messages import (
    Differences,
    Drain,
    Failed,
    HandOver,
    Line,
    Listen,
    Listener,
    Report,
    WorkerMessage,
)

SILENT_SECONDS = 5.0
"""A worker reports every second; after this long without a report, its event loop hangs."""

_START_SECONDS = 120.0
"""Longest wait until a worker has read its policy; 10,000 routes take a few seconds."""
_ANSWER_SECONDS = 5.0

logger = logging.getLogger(__name__)


class WorkerDied(TollgateError):
    """A worker ended on its own, or never got ready. One sentence, with its last error where it sent one."""


class PolicyRejected(ConfigError):
    """The worker cannot start with its policy; `faults` are sentences, the first of them is the message."""

    def __init__(self, faults: tuple[str, ...]) -> None:
        super().__init__(faults[0])
        self.faults = faults


class WorkerProcess:
    """One process of one generation. It is never started twice."""

    def __init__(
        self, number: int, generation: int, command: list[str], differences: Callable[[Differences], None]
    ) -> None:
        """`number`: its place among the workers. `differences`: what its candidate policy decides otherwise."""
        self.number = number
        self.generation = generation
        self.report = Report()
        self.not_replaced = ""
        """Why no other worker has taken its place since it ended."""
        self._listening_since = math.inf
        self._command = command
        self._differences = differences
        self._heard_at = 0.0
        self._failed: Failed | None = None
        self._listener: int | None = None
        self._news = asyncio.Event()
        self.died: asyncio.Task[int] = asyncio.create_task(asyncio.sleep(0, 0))
        """Done when the process has ended."""

    async def start(self, environ: Mapping[str, str], fd_variable: str) -> None:
        """Start the process and return at once. Nothing is left of one that raises."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ExitStack() as unless_started, theirs:
            unless_started.callback(ours.close)
            # A session of its own: Ctrl-C reaches the supervisor alone, and the supervisor drains.
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                env={**environ, fd_variable: str(theirs.fileno())},
                pass_fds=(theirs.fileno(),),
                stdout=sys.stderr.fileno(),
                start_new_session=True,
            )
            unless_started.pop_all()
        self._line = Line[WorkerMessage](ours, WorkerMessage, sender=f"worker {self.number}")
        self.died = asyncio.create_task(self._process.wait())
        self.died.add_done_callback(lambda _: self._news.set())
        asyncio.get_running_loop().add_reader(ours, self._hear)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def end(self) -> str:
        """How it ended, in one sentence."""
        status = self._process.returncode or 0
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        return f"worker {self.number} (process {self.pid}) {how}" + (
            f": {self._failed.sentence}" if self._failed else ""
        )

    @property
    def serves(self) -> bool:
        """It gives checks a verdict, as far as is known here."""
        return self.report.serving and self.report.listening and not self.hangs and not self.died.done()

    @property
    def hangs(self) -> bool:
        """It has started and lives, and does not report any more."""
        return bool(self._heard_at) and not self.died.done() and time.monotonic() - self._heard_at > SILENT_SECONDS

    def listened(self) -> float:
        """For how long, in seconds; negative: it did not."""
        return time.monotonic() - self._listening_since

    def why_not_serving(self) -> str:
        """Empty when it serves."""
        if self.died.done():
            return f"ended ({self.not_replaced})" if self.not_replaced else "ended"
        if not self._heard_at:
            return "starts"
        if self.hangs:
            return f"has not reported for {time.monotonic() - self._heard_at:.0f} s"
        if self.report.serving:
            return "" if self.report.listening else "starts"
        missing = [self._described(name) for name in self.report.lacking]
        return f"waits for {', '.join(missing)}" if missing else "drains"

    def _described(self, dependency: str) -> str:
        cause = self.report.causes.get(dependency)
        return f"{dependency} ({cause})" if cause else dependency

    async def until_ready(self) -> None:
        """Wait until its first report: by then it has its policy, and can listen.

        Raises:
            PolicyRejected: the policy is not whole and valid.
            ConfigError: another setting or file is wrong.
            WorkerDied: it ended, or was not ready in time.
        """
        if not await self.until(lambda: bool(self._heard_at) or self._failed is not None, _START_SECONDS):
            await self._raise_failure(f"worker {self.number} was not ready within {_START_SECONDS:.0f} seconds")

    async def hand_over(self) -> socket.socket | None:
        """Its listening socket, which it keeps accepting from; None when it has none to give."""
        if not self._line.send(HandOver()) or not await self.until(lambda: self._listener is not None, _ANSWER_SECONDS):
            return None
        listener, self._listener = self._listener, None
        return socket.socket(fileno=listener)

    async def listen(self, listener: socket.socket | None) -> None:
        """Have it accept connections, and wait until it does.

        Raises:
            WorkerDied: it ended, or does not.
        """
        self._line.send(Listen(), None if listener is None else listener.fileno())
        if not await self.until(lambda: self.report.listening, _ANSWER_SECONDS):
            await self._raise_failure(f"worker {self.number} does not listen")

    async def until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Wait for what its messages bring. False when it ended first, or the time is over."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not condition() and not self.died.done():
                    self._news.clear()
                    await self._news.wait()
        return condition() and not self.died.done() and self._failed is None

    async def _raise_failure(self, sentence: str) -> None:
        if self._failed is not None:  # it is about to end
            await asyncio.wait({self.died}, timeout=_ANSWER_SECONDS)
        if self._failed is not None and self._failed.policy_faults:
            raise PolicyRejected(self._failed.policy_faults)
        if self._failed is not None and self._failed.misconfigured:
            raise ConfigError(self._failed.sentence)
        raise WorkerDied(self.end if self.died.done() else sentence)

    def announce_drain(self) -> None:
        self._line.send(Drain())

    async def leave(self) -> None:
        """Ask it to end, and wait until it takes no more calls: what is asked from now on, others answer."""
        if not self.died.done():
            self._process.terminate()
            await self.until(lambda: not self.report.listening, _ANSWER_SECONDS)

    async def stop(self, seconds: float) -> None:
        """Ask it to answer what is in flight and to end; end it when it has not within `seconds`."""
        if not self.died.done():
            self._process.terminate()
            await asyncio.wait((self.died,), timeout=seconds)
        self.kill()
        await self.died
        self._close()

    def kill(self) -> None:
        if not self.died.done():
            self._process.kill()

    def _hear(self) -> None:
        try:
            for message, descriptor in self._line.receive():
                self._take(message, descriptor)
        except EOFError:
            self._close()
            asyncio.get_running_loop().call_later(SILENT_SECONDS, self._end_silent)
        self._news.set()

    def _take(self, message: WorkerMessage, descriptor: int | None) -> None:
        match message:
            case Report():
                if message.listening and not self.report.listening:
                    self._listening_since = time.monotonic()
                self.report, self._heard_at = message, time.monotonic()
            case Failed():
                self._failed = message
            case Differences():
                self._differences(message)
            case Listener():
                self._listener, descriptor = descriptor, self._listener
        if descriptor is not None:
            os.close(descriptor)

    def _end_silent(self) -> None:
        """Without its connection it cannot be asked to end either."""
        if not self.died.done():
            logger.error(
                "a worker closed its connection to the supervisor: killed",
                extra={"worker": self.number, "pid": self.pid},
            )
            self.kill()

    def _close(self) -> None:
        if self._line.end.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._line.end)
            self._line.end.close()
        if self._listener is not None:
            os.close(self._listener)
            self._listener = None
