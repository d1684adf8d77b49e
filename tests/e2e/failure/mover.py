"""`tollgate usage-worker` beside a test."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def moving(redis_url: str, database_url: str) -> Iterator[None]:
    """Until the end of the block."""
    environ = {"TOLLGATE_REDIS_URL": redis_url, "TOLLGATE_DATABASE_URL": database_url}
    started = subprocess.Popen([sys.executable, "-m", "ext_authz", "usage-worker"], env=os.environ | environ)
    try:
        yield
    finally:
        started.terminate()
        started.wait(20)
