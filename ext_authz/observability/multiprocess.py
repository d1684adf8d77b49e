"""The directory that the processes of one `serve` share, closed to other users.

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

    Must run before anything imports prometheus_client: that module reads the environment once.

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
