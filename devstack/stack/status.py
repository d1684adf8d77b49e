"""`tollgate status`: each part, and whether it answers at this moment."""

from __future__ import annotations

import time

import click
import psutil

from devstack.stack import record
from devstack.stack.directory import StateDirectory
from devstack.stack.environment import reach_loopback_directly
from devstack.stack.probe import answers
from devstack.stack.record import PartRecord
from devstack.stack.settings import StackSettings

_COLUMNS = "{:<14}{:>8}  {:<9}{:>8}  {:<10}{}"
_MINUTE = 60


def status(settings: StackSettings) -> int:
    """The exit status: 0 when everything answers, 1 when something does not, 3 when nothing runs."""
    state = StateDirectory(settings.state_dir)
    found = record.read(state)
    if found is None:
        click.echo(f"no stack runs in {state.root}: start one with tollgate up{_how_it_ended(state)}")
        return 3
    reach_loopback_directly()
    click.echo(_COLUMNS.format("part", "pid", "answers", "memory", "up", "address"))
    good = [_show(part) for part in found.parts]
    return 0 if all(good) else 1


def _how_it_ended(state: StateDirectory) -> str:
    ended = record.last(state)
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
    where = f"{part.probe}{f'  ({part.setting})' if part.setting else ''}"
    click.echo(_COLUMNS.format(part.name, part.pid or "-", "yes" if good else "no", _memory(part.pid), since, where))
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
