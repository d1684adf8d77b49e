"""One child process: started, waited for until it answers, stopped, and never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from devstack.stack.processes import end
from ext_authz.errors import TollgateError

_LAUNCH = Path(__file__).with_name("launch.py")
_PAUSE = 0.02
_TAIL_BYTES = 4096
_TAIL_LINES = 12


class ChildFailed(TollgateError):
    """A part ended, or never answered; says which, with the last lines of its log."""


@dataclass(kw_only=True)
class Child:
    """How to run one program. Configuration is fixed; only the process changes.

    Start it from a thread that lives as long as it shall: to the kernel, that thread is the parent.
    """

    name: str
    command: Sequence[str | Path]
    environment: Mapping[str, str]
    log: Path
    answers: Callable[[], bool]
    prepare: Callable[[], None] = lambda: None
    """Makes what the program needs, right before it starts; may raise ConfigError."""
    patience: float = 30.0
    """Seconds until it must answer."""
    stop_signal: signal.Signals = signal.SIGTERM
    grace: float = 10.0
    """Seconds from the stop signal to SIGKILL."""
    stack_bytes: int = 0
    """Stack limit of the program; 0 leaves the system's."""
    on_stopped: Callable[[], None] = lambda: None
    """Removes what the program itself leaves behind."""
    started_at: float = 0.0
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def pid(self) -> int:
        """0 before the first start."""
        return self._process.pid if self._process else 0

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.poll() if self._process else None

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self, is_cancelled: Callable[[], bool] = lambda: False) -> None:
        """Start, and return when it answers, or when `is_cancelled` says that nobody waits any more.

        Raises:
            ChildFailed: it ended, or did not answer in time (it is stopped then).
        """
        self.prepare()
        if is_cancelled():
            return
        self.started_at = time.time()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._launcher(), *self.command],
                env=dict(self.environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C at the terminal is for `up` alone, which stops its children in order.
                start_new_session=True,
                cwd="/",
            )
        self._wait_until_it_answers(is_cancelled)

    def _launcher(self) -> list[str]:
        options = [os.getpid(), int(self.stop_signal), self.stack_bytes]
        return [sys.executable, "-I", "-S", str(_LAUNCH), *map(str, options)]

    def _wait_until_it_answers(self, is_cancelled: Callable[[], bool]) -> None:
        deadline = time.monotonic() + self.patience
        while not is_cancelled():
            if (code := self.exit_code) is not None:
                raise ChildFailed(f"{self.name} {_ended(code)} before it answered\n{self.tail()}")
            if self.answers():
                return
            if time.monotonic() > deadline:
                self.stop()
                raise ChildFailed(f"{self.name} did not answer within {self.patience:.0f} s\n{self.tail()}")
            time.sleep(_PAUSE)

    def stop(self) -> None:
        """Ask, wait, insist. Nothing of it runs when this returns."""
        if self._process is None:
            return
        family = self._family()
        if self._process.poll() is None:
            self._process.send_signal(self.stop_signal)
        try:
            self._process.wait(self.grace)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._bury(family)

    def kill(self) -> None:
        """SIGKILL to it and all that it started: what a power cut leaves is what the kernel already had."""
        if self._process is None:
            return
        family = self._family()
        self._process.kill()
        self._process.wait()
        self._bury(family)

    def _bury(self, family: Sequence[psutil.Process]) -> None:
        end(family)
        self.on_stopped()

    def restart(self) -> None:
        """Start again after `kill` or `stop`, on the same port and data."""
        self.stop()
        self.start()

    def verdict(self) -> str:
        """How it ended, with the last lines of its log."""
        return f"{self.name} {_ended(self.exit_code or 0)}\n{self.tail()}"

    def tail(self) -> str:
        """The last lines of its log, under the log's name."""
        with self.log.open("rb") as log:
            log.seek(max(0, os.fstat(log.fileno()).st_size - _TAIL_BYTES))
            lines = log.read().decode(errors="replace").splitlines()[-_TAIL_LINES:]
        return "\n".join([f"  the end of {self.log}:", *(f"    {line}" for line in lines)])

    def _family(self) -> list[psutil.Process]:
        """What it started: known only while it lives, for orphans belong to nobody."""
        try:
            return psutil.Process(self.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []


def _ended(code: int) -> str:
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"
