"""`tollgate down`: stop what an `up` runs, and clean up after one that was killed."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress

import click

from devstack.stack import leftovers, record
from devstack.stack.directory import StateDirectory
from devstack.stack.settings import StackSettings

_PATIENCE = 120.0
_PAUSE = 0.1


def down(settings: StackSettings) -> int:
    """The exit status: 0 when nothing runs any more."""
    state = StateDirectory(settings.state_dir)
    holder = state.holder()
    if not holder:
        return _clean(state)
    with suppress(ProcessLookupError):
        os.kill(holder, signal.SIGTERM)
    deadline = time.monotonic() + _PATIENCE
    while state.holder() == holder:
        if time.monotonic() > deadline:
            click.echo(f"process {holder} has not stopped within {_PATIENCE:.0f} s: see {state.root / 'log'}", err=True)
            return 1
        time.sleep(_PAUSE)
    click.echo("stopped")
    return 0


def _clean(state: StateDirectory) -> int:
    if not state.root.is_dir():
        click.echo("nothing runs here")
        return 0
    with state.locked():
        done = leftovers.clean(state)
        if (found := record.last(state)) and not found.ended_at:
            record.finish(state, found.pid, "it was killed")
    click.echo("\n".join(done) or "nothing runs here")
    return 0
