"""One part of the stack: a child process, or an external server that a setting names.

A child is started, waited for until it answers, stopped, and never left behind.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import psutil

from devstack.stack.probe import answers
from ext_authz.errors import ConfigError, TollgateError

_LAUNCH = Path(__file__).with_name("launch.py")
_PAUSE = 0.02
_KILL_SECONDS = 10.0
_TAIL_BYTES = 4096
_TAIL_LINES = 12


class ChildFailed(TollgateError):
    """A part ended, or never answered; names it, with the last lines of its log."""


@dataclass(kw_only=True)
class Child:
    """How to run one program. Configuration is fixed; only the process changes.

    Start it from a thread that lives as long as the child: to the kernel, that thread is the parent.
    """

    name: str
    command: Sequence[str | Path]
    environment: Mapping[str, str]
    log: Path
    probe: str
    """A URL for `answers`, without credentials."""
    ports: tuple[str, ...] = ()
    """Settings of the ports that it takes."""
    answers_at: Callable[[str], bool] = answers
    on_ready: Callable[[], None] = lambda: None
    """Called once it answers."""
    prepare: Callable[[], None] = lambda: None
    """Makes what the program needs, right before it starts; may raise ConfigError."""
    patience: float = 30.0
    """Seconds until it must answer."""
    pause: float = 0.02
    """Seconds between two probes."""
    stop_signal: signal.Signals = signal.SIGTERM
    grace: float = 10.0
    """Seconds from the stop signal to SIGKILL."""
    before_stop: Callable[[], None] = lambda: None
    """Called before the stop signal, while it runs; not before a kill."""
    on_stopped: Callable[[], None] = lambda: None
    """Removes what the program itself leaves behind."""
    remark: str = ""
    """One sentence for whoever starts it, about what it does without."""
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
        """Start, and return when it answers or `is_cancelled`.

        Raises:
            ChildFailed: it ended, or did not answer in time (it is stopped then).
        """
        self.prepare()
        if is_cancelled():
            return
        self.started_at = time.time()
        options = map(str, (os.getpid(), int(self.stop_signal)))
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_LAUNCH), *options, *self.command],
                env=dict(self.environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C at the terminal is for `up` alone, which stops its children in order.
                start_new_session=True,
                cwd="/",
            )
        self._wait_until_it_answers(is_cancelled)

    def _wait_until_it_answers(self, is_cancelled: Callable[[], bool]) -> None:
        deadline = time.monotonic() + self.patience
        while not is_cancelled():
            if (code := self.exit_code) is not None:
                raise ChildFailed(f"{self.name} {_ended(code)} before it answered\n{self.tail()}")
            if self.answers_at(self.probe):
                self.on_ready()
                return
            if time.monotonic() > deadline:
                self.stop()
                raise ChildFailed(f"{self.name} did not answer within {self.patience:.0f} s\n{self.tail()}")
            time.sleep(self.pause)

    def stop(self) -> None:
        """The stop signal, then SIGKILL. Neither it nor what it started runs when this returns."""
        if self.is_running:
            self.before_stop()
        self._end(self.stop_signal)

    def kill(self) -> None:
        """SIGKILL to it and all that it started, as in a power cut: only what the kernel already had is kept."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        family = self._family()
        self._process.send_signal(number)
        try:
            self._process.wait(self.grace)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        end(family)
        self.on_stopped()

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
        """What it started: known only while it lives, because orphans have another parent."""
        try:
            return psutil.Process(self.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []


def _ended(code: int) -> str:
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


@dataclass(frozen=True, kw_only=True)
class External:
    """A server that is not started here: it must answer already."""

    name: str
    probe: str
    setting: str
    """Names its address."""

    def start(self, _is_cancelled: Callable[[], bool]) -> None:
        """Raises ConfigError when it does not answer."""
        if not answers(self.probe):
            raise ConfigError(f"{self.setting}: nothing answers at {self.probe}")


Part = Child | External


def end(processes: Sequence[psutil.Process]) -> None:
    """SIGKILL, and wait until none of them runs; they may be children of any process."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    deadline = time.monotonic() + _KILL_SECONDS
    while time.monotonic() < deadline and any(is_alive(process) for process in processes):
        time.sleep(_PAUSE)


def is_alive(process: psutil.Process) -> bool:
    """False for a zombie without threads: in a container without an init nothing may ever collect it."""
    try:
        return process.is_running() and (process.status() != psutil.STATUS_ZOMBIE or process.num_threads() > 1)
    except psutil.NoSuchProcess:
        return False


def package_directory(package: str, instead: str) -> Path:
    """Of a wheel that holds a program, without importing it; `instead` names the setting that does without it.

    Raises:
        ConfigError: the package is not installed.
    """
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(f"{package} is not installed: pip install {package}, or set {instead}")
    return Path(spec.submodule_search_locations[0])
