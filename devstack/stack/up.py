"""`tollgate up`: start everything, keep watch, and leave nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event
from types import FrameType

import click

from devstack.stack import leftovers, record
from devstack.stack.child import ChildFailed
from devstack.stack.directory import StateDirectory
from devstack.stack.part import Part
from devstack.stack.settings import StackSettings
from devstack.stack.stack import Stack
from devstack.stack.welcome import welcome

_WATCH_SECONDS = 0.2
_DETACHED_SECONDS = 300.0


def up(settings: StackSettings) -> None:
    """Run the stack until a signal comes.

    Raises:
        ConfigError: a setting is wrong, a port is taken, or the stack already runs.
        ChildFailed: a part never answered, or died.
    """
    state = StateDirectory(settings.state_dir)
    with state.locked(), _signals() as stop:
        for line in leftovers.clean(state):
            click.echo(line)
        state.rotate_logs()
        stack, how = Stack(settings, state), "it was stopped"
        try:
            _run(stack, stop)
        except Exception as failure:
            how = (str(failure) or type(failure).__name__).splitlines()[0]
            raise
        finally:
            stack.stop(_Shown(stack))
            record.finish(state, os.getpid(), how)


def _run(stack: Stack, stop: Event) -> None:
    began = time.monotonic()
    stack.start(_Shown(stack), stop.is_set)
    if not stop.is_set():
        click.echo(f"everything answers after {time.monotonic() - began:.1f} s\n\n{welcome(stack)}")
        record.write(stack, os.getpid(), is_ready=True)
    while not stop.wait(_WATCH_SECONDS):
        if dead := stack.dead():
            raise ChildFailed(dead.verdict())
    click.echo("stopping")


@contextmanager
def _signals() -> Iterator[Event]:
    """Ctrl-C, SIGTERM and a closed terminal set the event; a second one changes nothing: stopping is under way."""
    stop = Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, on_signal) for number in numbers]
    try:
        yield stop
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


class _Shown:
    """Tells the terminal."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._began = 0.0

    def starting(self, part: Part) -> None:
        self._began = time.monotonic()
        click.echo(f"{part.name:<14}{'starting' if part.child else 'asking'} ... ", nl=False)

    def ready(self, part: Part) -> None:
        click.echo(f"{time.monotonic() - self._began:5.1f} s  {part.probe if not part.child else ''}".rstrip())
        record.write(self._stack, os.getpid(), is_ready=False)

    def stopping(self, part: Part) -> None:
        click.echo(f"{part.name:<14}stopping")


def detach(settings: StackSettings) -> int:
    """Start `up` in the background and wait until it is ready, or has failed; the exit status."""
    state = StateDirectory(settings.state_dir)
    state.create()
    with (state.root / "up.out").open("w+") as output:
        command = [sys.executable, "-m", "ext_authz", "up"]
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        code = _wait_until_ready(process, state)
        output.seek(0)
        click.echo(output.read(), nl=False)
    return code


def _wait_until_ready(process: subprocess.Popen[bytes], state: StateDirectory) -> int:
    deadline = time.monotonic() + _DETACHED_SECONDS
    while time.monotonic() < deadline:
        if (code := process.poll()) is not None:
            return code
        if (found := record.read(state)) and found.pid == process.pid and found.is_ready:
            return 0
        time.sleep(_WATCH_SECONDS)
    return 1
