"""`tollgate up`, `down` and `status`: start everything and supervise it, stop it, show each part."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Event
from types import FrameType

import click
import psutil

from devstack.stack.child import ChildFailed, External, Part
from devstack.stack.directory import PartRecord, StateDirectory, clean, ended_record, running_record
from devstack.stack.probe import answers, reach_loopback_directly
from devstack.stack.settings import StackSettings
from devstack.stack.stack import Report, Stack
from devstack.stack.welcome import welcome
from ext_authz.errors import TollgateError

_WATCH_SECONDS = 0.2
_DETACHED_SECONDS = 300.0
_DOWN_SECONDS = 180.0
_COLUMNS = "{:<14}{:>8}  {:<9}{:>8}  {:<10}{}"
_MINUTE = 60


def up(settings: StackSettings) -> None:
    """Run the stack until a signal comes.

    Raises:
        ConfigError: a setting is wrong, a port is taken, or the stack already runs.
        ChildFailed: a part never answered, or died.
    """
    state = StateDirectory(settings.state_dir)
    with state.locked(), _signals() as stop:
        for line in clean(state):
            click.echo(line)
        state.unlist()
        state.rotate_logs()
        stack, how = Stack(settings, state), "it was stopped"
        report = _printer(stack)
        try:
            _run(stack, report, stop)
        except Exception as failure:
            # Ctrl-C also ends a program that was just started and is not in a session of its own yet.
            if stop.is_set() and isinstance(failure, TollgateError):
                return
            how = (str(failure) or type(failure).__name__).splitlines()[0]
            raise
        finally:
            state.unlist()
            stack.stop(report)
            state.write_record(ended_record(os.getpid(), how))


def _run(stack: Stack, report: Report, stop: Event) -> None:
    began = time.monotonic()
    stack.start(report, stop.is_set)
    if not stop.is_set():
        _list_settings(stack)
        click.echo(f"everything answers after {time.monotonic() - began:.1f} s\n\n{welcome(stack)}")
        stack.state.write_record(running_record(stack.parts, is_ready=True))
    while not stop.wait(_WATCH_SECONDS):
        if dead := stack.dead():
            raise ChildFailed(dead.verdict())
    click.echo("stopping")


def _list_settings(stack: Stack) -> None:
    try:
        stack.state.list_settings(stack.variables)
    except OSError as failure:
        root = stack.state.root.absolute()
        how = f"commands beside this stack need TOLLGATE_STATE_DIR={root}"
        click.echo(f"cannot write {failure.filename}: {failure.strerror}; {how}", err=True)


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


def _printer(stack: Stack) -> Report:
    began = 0.0

    def report(event: str, part: Part) -> None:
        nonlocal began
        if event == "starting":
            began = time.monotonic()
            click.echo(f"{part.name:<14}{'probing' if isinstance(part, External) else 'starting'} ... ", nl=False)
        elif event == "ready":
            remark = part.probe if isinstance(part, External) else part.remark
            click.echo(f"{time.monotonic() - began:5.1f} s  {remark}".rstrip())
            stack.state.write_record(running_record(stack.parts, is_ready=False))
        else:
            click.echo(f"{part.name:<14}stopping")

    return report


def detach(settings: StackSettings) -> int:
    """Start `up` in the background and wait until it is ready, or has failed; the exit status."""
    state = StateDirectory(settings.state_dir)
    state.create()
    with (state.root / "up.out").open("w+") as output:
        options = ["--idp", settings.idp, *["--observability"] * settings.observability]
        command = [sys.executable, "-m", "ext_authz", "up", *options]
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
        if (found := state.record()) and found.pid == process.pid and found.is_ready:
            return 0
        time.sleep(_WATCH_SECONDS)
    return 1


def down(settings: StackSettings) -> int:
    """Stop what an `up` runs, or clean up after one that was killed. The exit status: 0 when nothing runs any more."""
    state = StateDirectory(settings.state_dir)
    holder = state.holder()
    if not holder:
        return _clean_up(state)
    with suppress(ProcessLookupError):
        os.kill(holder, signal.SIGTERM)
    deadline = time.monotonic() + _DOWN_SECONDS
    while state.holder() == holder:
        if time.monotonic() > deadline:
            click.echo(f"process {holder} has not stopped within {_DOWN_SECONDS:.0f} s: {_logs(state)}", err=True)
            return 1
        time.sleep(_WATCH_SECONDS)
    click.echo("stopped")
    return 0


def _clean_up(state: StateDirectory) -> int:
    if not state.root.is_dir():
        click.echo("nothing runs here")
        return 0
    with state.locked():
        done = clean(state)
        state.unlist()
        if (found := state.last_record()) and not found.ended_at:
            state.write_record(ended_record(found.pid, "it was killed"))
    click.echo("\n".join(done) or "nothing runs here")
    return 0


def status(settings: StackSettings) -> int:
    """The exit status: 0 when everything answers, 1 when something does not, 3 when nothing runs."""
    state = StateDirectory(settings.state_dir)
    found = state.record()
    if found is None:
        click.echo(f"no stack runs in {state.root}: start one with tollgate up{_how_it_ended(state)}")
        return 3
    reach_loopback_directly()
    click.echo(_COLUMNS.format("part", "pid", "answers", "memory", "up", "address"))
    good = [_show(part) for part in found.parts]
    return 0 if all(good) else 1


def _how_it_ended(state: StateDirectory) -> str:
    ended = state.last_record()
    if ended is None:
        return ""
    if not ended.ended_at:
        return f"\nthe last one (process {ended.pid}) was killed: tollgate down removes what it left, {_logs(state)}"
    return f"\nthe last one ended {_duration(time.time() - ended.ended_at)} ago: {ended.how}; {_logs(state)}"


def _logs(state: StateDirectory) -> str:
    return f"its logs are in {state.root / 'log'}"


def _show(part: PartRecord) -> bool:
    is_alive = not part.pid or psutil.pid_exists(part.pid)
    good = bool(part.since or part.setting) and is_alive and answers(part.probe)
    since = _duration(time.time() - part.since) if part.since else "-"
    address = f"{part.probe}{f'  ({part.setting})' if part.setting else ''}"
    click.echo(_COLUMNS.format(part.name, part.pid or "-", "yes" if good else "no", _memory(part.pid), since, address))
    return good


def _memory(pid: int) -> str:
    """Of the process and all that it started."""
    try:
        process = psutil.Process(pid) if pid else None
        family = [process, *process.children(recursive=True)] if process else []
        return f"{sum(one.memory_info().rss for one in family) / 1e6:.0f} MB" if family else "-"
    except psutil.NoSuchProcess:
        return "-"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < _MINUTE else f"{seconds // _MINUTE:.0f} min"
