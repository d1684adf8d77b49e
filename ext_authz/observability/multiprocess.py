"""The directory that the processes of one `serve` share, readable by nobody else: files and Unix sockets.

Metrics of several processes: each writes files into it, the admin listener adds them up.
"""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

from ext_authz.errors import ConfigError

_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
_LONGEST = 70
"""Bytes of the path above the directory: with its own name and that of a socket in it, 107 are the most (unix(7))."""


def prepare() -> Path:
    """Make a fresh directory for this start, and remove it at exit.

    Must run before anything imports prometheus_client: that module looks at the environment once.

    Raises:
        ConfigError: there is no directory that can be written and has a path short enough for a Unix socket.
    """
    if "prometheus_client" in sys.modules:
        raise RuntimeError("observability.multiprocess.prepare() comes before every import of the metrics")
    directory = _made()
    os.environ[_VARIABLE] = str(directory)
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return directory


def _made() -> Path:
    try:
        wanted = tempfile.gettempdir()
    except FileNotFoundError:
        raise ConfigError("TMPDIR: no directory for temporary files can be written: set it to one that can") from None
    for place in (wanted, os.environ.get("XDG_RUNTIME_DIR", ""), "/tmp", "/dev/shm"):  # noqa: S108 - mkdtemp is safe there
        if 0 < len(os.fsencode(place)) <= _LONGEST and os.access(place, os.W_OK | os.X_OK):
            return Path(tempfile.mkdtemp(prefix="tollgate-", dir=place))
    raise ConfigError(
        f"TMPDIR: {len(os.fsencode(wanted))} bytes are too many for the path of a Unix socket: "
        f"set it to a directory whose path has at most {_LONGEST}"
    )


def directory() -> Path:
    """The directory that `prepare` made."""
    return Path(os.environ[_VARIABLE])


def forget(pid: int) -> None:
    """Drop what a dead process said about itself (its gauges); what it counted stays."""
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(pid)  # type: ignore[no-untyped-call]
