"""What `up` writes down for `status` and `down`: which parts there are, and where. Holds no secret."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from ext_authz.stack.directory import StateDirectory
from ext_authz.stack.stack import Stack


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
    parts: tuple[PartRecord, ...]


def write(stack: Stack, pid: int, *, is_ready: bool) -> None:
    """Whole or not at all: `status` may read at any moment."""
    parts = [
        PartRecord(part.name, part.probe, part.child.pid, part.child.started_at)
        if part.child
        else PartRecord(part.name, part.probe, setting=part.setting)
        for part in stack.parts
    ]
    unfinished = stack.state.record.with_suffix(".new")
    unfinished.write_bytes(msgspec.json.encode(Record(pid, is_ready, tuple(parts))))
    unfinished.replace(stack.state.record)


def read(state: StateDirectory) -> Record | None:
    """None when no `up` is running, whatever an earlier one left."""
    try:
        record = msgspec.json.decode(state.record.read_bytes(), type=Record)
    except FileNotFoundError:
        return None
    return record if record.pid == state.holder() else None
