"""What `up` writes down for `status` and `down`: which parts there are, and where. Holds no secret."""

from __future__ import annotations

import time

import msgspec
from msgspec import Struct

from devstack.stack.directory import StateDirectory
from devstack.stack.stack import Stack


class PartRecord(Struct, frozen=True):
    name: str
    probe: str
    pid: int = 0
    """0: not ours."""
    since: float = 0.0
    setting: str = ""


class Record(Struct, frozen=True):
    pid: int
    """Of `up` itself."""
    is_ready: bool
    parts: tuple[PartRecord, ...] = ()
    ended_at: float = 0.0
    """Seconds since the epoch; 0 while it runs, and after a kill."""
    how: str = ""
    """Why it ended, in a few words."""


def write(stack: Stack, pid: int, *, is_ready: bool) -> None:
    """Whole or not at all: `status` may read at any moment."""
    parts = [
        PartRecord(part.name, part.probe, part.child.pid, part.child.started_at)
        if part.child
        else PartRecord(part.name, part.probe, setting=part.setting)
        for part in stack.parts
    ]
    _replace(stack.state, Record(pid, is_ready, tuple(parts)))


def finish(state: StateDirectory, pid: int, how: str) -> None:
    """What `status` tells from now on."""
    _replace(state, Record(pid, is_ready=False, ended_at=time.time(), how=how))


def read(state: StateDirectory) -> Record | None:
    """None when no `up` is running, whatever an earlier one left."""
    record = last(state)
    return record if record and not record.ended_at and record.pid == state.holder() else None


def last(state: StateDirectory) -> Record | None:
    """Of the `up` that runs or ran last; None where none ever did, or another version of Tollgate wrote it."""
    try:
        return msgspec.json.decode(state.record.read_bytes(), type=Record)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def _replace(state: StateDirectory, record: Record) -> None:
    unfinished = state.record.with_suffix(".new")
    unfinished.write_bytes(msgspec.json.encode(record))
    unfinished.replace(state.record)
