"""Processes of models (Triton's *stubs*), as the kernel shows them, and their shared memory."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

_STUB = "triton_python_backend_stub"
_REGIONS = Path("/dev/shm")  # noqa: S108 - where the kernel keeps them
_COPIED = re.compile(r"folder\w{6}")
"""Triton's directory of a model that it fetched from elsewhere."""


class Stub(NamedTuple):
    """A process that runs one instance of one version of a model."""

    pid: int
    parent: int
    region: str
    """Its shared memory."""
    model: str
    version: str
    instance: str


def stubs() -> Iterator[Stub]:
    """All of this user, on this machine or in this container; Triton's arguments of each say whose they are."""
    for directory in Path("/proc").iterdir():
        if not directory.name.isdigit():
            continue
        try:
            if directory.stat().st_uid != os.geteuid():  # anybody can give a process such arguments
                continue
            words = (directory / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:  # it has ended
            continue
        if Path(words[0]).name == _STUB and len(words) > 8 and words[5].isdigit():
            where = Path(words[1])  # MODEL/VERSION/model.py
            model = where.parent.parent.name
            if _COPIED.fullmatch(model):
                model = re.sub(r"_\d+_\d+$", "", words[8])  # MODEL_GROUP_NUMBER
            yield Stub(int(directory.name), int(words[5]), Path(words[2]).name, model, where.parent.name, words[8])


def is_stopped(pid: int) -> bool:
    """By SIGSTOP, or a debugger."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in ("T", "t")
    except OSError:  # it has ended
        return False


def remove_leftovers(prefix: str) -> None:
    """Stubs and shared memory of a Triton that is gone; `prefix` is of that one alone."""
    if not prefix:
        return
    end([stub for stub in stubs() if stub.region.startswith(prefix)], "which a crash had left")
    remove_regions(region.name for region in _REGIONS.glob(f"{prefix}*"))


def close_region(name: str) -> bool:
    """To other users: Triton opens to everybody what all requests go through. False: it is gone."""
    with suppress(OSError):
        (_REGIONS / name).chmod(0o600)
        return True
    return False


def remove_regions(regions: Iterable[str]) -> None:
    for name in regions:
        with suppress(OSError):  # also another user's, whose name only begins so
            (_REGIONS / name).unlink()


def end(left: Sequence[Stub], why: str) -> None:
    for stub in left:
        with suppress(OSError):
            os.kill(stub.pid, signal.SIGKILL)
            log(f"ended process {stub.pid} of {stub.model} {stub.version}, {why}")


def log(sentence: str) -> None:
    print(f"watchdog: {sentence}", flush=True)
