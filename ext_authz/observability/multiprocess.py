"""The directory that the processes of one `serve` share, readable by nobody else.

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


def prepare() -> Path:
    """Make a fresh directory for this start, and remove it at exit.

    Must run before anything imports prometheus_client: that module looks at the environment once.

    Raises:
        ConfigError: there is no directory that can be written.
    """
    if "prometheus_client" in sys.modules:
        raise RuntimeError("observability.multiprocess.prepare() comes before every import of the metrics")
    try:
        directory = Path(tempfile.mkdtemp(prefix="tollgate-"))
    except FileNotFoundError:
        raise ConfigError("TMPDIR: no directory for temporary files can be written: set it to one that can") from None
    os.environ[_VARIABLE] = str(directory)
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return directory


def directory() -> Path:
    """The directory that `prepare` made."""
    return Path(os.environ[_VARIABLE])


def forget(pid: int) -> None:
    """A process is dead: drop what it said about itself (its gauges), and add what it counted to what all dead ones
    counted, in one file for each kind of metric. Not while somebody collects."""
    from prometheus_client.mmap_dict import MmapedDict
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(pid)  # type: ignore[no-untyped-call]
    for kind in ("counter", "histogram"):
        file = directory() / f"{kind}_{pid}.db"
        if not file.exists():
            continue
        total = MmapedDict(str(directory() / f"{kind}_dead.db"))  # type: ignore[no-untyped-call]
        for key, counted, _, _ in MmapedDict.read_all_values_from_file(str(file)):  # type: ignore[no-untyped-call]
            total.write_value(key, total.read_value(key)[0] + counted, 0.0)  # type: ignore[no-untyped-call]
        total.close()  # type: ignore[no-untyped-call]
        file.unlink()
