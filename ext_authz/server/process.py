"""One worker process as the supervisor sees it: started, observed, set to listen, drained, stopped."""

from __future__ import annotations

import asyncio
import math
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from ext_authz.server.messages import Difference, Differences, Failed, Line, Report, WorkerMessage
from ext_authz.server.sources import Rejected
from ext_authz.server.worker import LINE_FD

SILENT_SECONDS = 5.0
"""A worker reports every second; after this long without a report, its event loop hangs."""

_START_SECONDS = 120.0
"""Longest wait until a worker has read its policy; 10,000 routes take a few seconds."""
_ANSWER_SECONDS = 5.0


async def spawned(
    command: Sequence[str], environ: Mapping[str, str], descriptors: Sequence[int] = ()
) -> tuple[asyncio.subprocess.Process, socket.socket]:
    """A worker process that has these descriptors, and our end of the connection to it.

    Raises:
        OSError: none can be started; nothing is left of it.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        try:
            # A session of its own: Ctrl-C reaches the supervisor alone, and the supervisor drains.
            process = await asyncio.create_subprocess_exec(
                *command,
                env={**environ, LINE_FD: str(theirs.fileno())},
                pass_fds=(theirs.fileno(), *descriptors),
                stdout=sys.stderr.fileno(),
                start_new_session=True,
            )
        except BaseException:
            ours.close()
            raise
    return process, ours


class WorkerProcess:
    """One process of one generation."""

    def __init__(
        self,
        number: int,
        generation: int,
        process: asyncio.subprocess.Process,
        end: socket.socket,
        differences: deque[Difference],
    ) -> None:
        """`number`: its place among the workers. `differences`: for what its candidate policy decides otherwise."""
        self.number = number
        self.generation = generation
        self.pid = process.pid
        self.report = Report()
        self.not_replaced = ""
        """Why no other worker has taken its place since it ended."""
        self._listening_since = math.inf
        self._process = process
        self._line = Line[WorkerMessage](end, WorkerMessage, sender=f"worker {number}")
        self._differences = differences
        self._heard_at = 0.0
        self._failed: Failed | None = None
        self._news = asyncio.Event()
        self.died = asyncio.create_task(process.wait())
        """Done when the process has ended."""
        self.died.add_done_callback(lambda _: self._news.set())
        asyncio.get_running_loop().add_reader(end, self._hear)

    @property
    def end(self) -> str:
        """How it ended, in one sentence."""
        status = self._process.returncode or 0
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        why = f": {self._failed.faults[0]}" if self._failed else ""
        return f"worker {self.number} (process {self.pid}) {how}{why}"

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
        causes = self.report.causes
        missing = [f"{name} ({causes[name]})" if name in causes else name for name in self.report.lacking]
        return f"waits for {', '.join(missing)}" if missing else "drains"

    async def until_ready(self) -> None:
        """Wait until its first report: by then it has its policy, and can listen. Raises Rejected."""
        within = f"was not ready within {_START_SECONDS:.0f} seconds"
        await self._reach(lambda: bool(self._heard_at), _START_SECONDS, within)

    async def listen(self, listener: socket.socket | None) -> None:
        """Have it accept connections, and wait until it does. Raises Rejected."""
        self._line.send("listen", listener)
        await self._reach(lambda: self.report.listening, _ANSWER_SECONDS, "does not listen")

    async def _reach(self, condition: Callable[[], bool], seconds: float, otherwise: str) -> None:
        if await self.until(condition, seconds):
            return
        if failed := self._failed:  # it is about to end
            await asyncio.wait({self.died}, timeout=_ANSWER_SECONDS)
            if not failed.again:
                raise Rejected(*failed.faults, role=failed.role)
        raise Rejected(self.end if self.died.done() else f"worker {self.number} {otherwise}", again=True)

    async def until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Wait for what its messages bring. False when it ended first, or the time is over."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not (condition() or self._failed or self.died.done()):
                    self._news.clear()
                    await self._news.wait()
        return condition() and not self._failed and not self.died.done()

    def announce_drain(self) -> None:
        self._line.send("drain")

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
            for message, _ in self._line.receive():
                self._take(message)
        except EOFError:
            self._close()
        self._news.set()

    def _take(self, message: WorkerMessage) -> None:
        match message:
            case Report():
                if message.listening and not self.report.listening:
                    self._listening_since = time.monotonic()
                self.report, self._heard_at = message, time.monotonic()
            case Failed():
                self._failed = message
            case Differences():
                self._differences.extend(message.differences)

    def _close(self) -> None:
        if self._line.end.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._line.end)
            self._line.end.close()
