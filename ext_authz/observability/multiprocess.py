"""Metrics of several processes: each writes files into one directory, the admin listener adds them up."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"


def prepare() -> Path:
    """Make a fresh directory for this start, and remove it at exit.

    Must run before anything imports prometheus_client: that module looks at the environment once.
    """
    if "prometheus_client" in sys.modules:
        raise RuntimeError("observability.multiprocess.prepare() comes before every import of the metrics")
    directory = Path(tempfile.mkdtemp(prefix="tollgate-"))
    os.environ[_VARIABLE] = str(directory)
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return directory


def directory() -> Path:
    """The directory that `prepare` made."""
    return Path(os.environ[_VARIABLE])


def forget(pid: int) -> None:
    """Drop what a dead process said about itself (its gauges); what it counted stays."""
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(pid)  # type: ignore[no-untyped-call]
