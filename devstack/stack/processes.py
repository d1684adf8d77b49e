"""Ending processes that may be nobody's children any more."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress

import psutil

_PATIENCE = 10.0
_PAUSE = 0.005


def end(processes: Sequence[psutil.Process]) -> None:
    """SIGKILL, and wait until none of them runs."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline and any(is_alive(process) for process in processes):
        time.sleep(_PAUSE)


def is_alive(process: psutil.Process) -> bool:
    """A zombie is not, once its threads are gone: in a container without an init nobody may ever collect it."""
    try:
        return process.is_running() and (process.status() != psutil.STATUS_ZOMBIE or process.num_threads() > 1)
    except psutil.NoSuchProcess:
        return False
