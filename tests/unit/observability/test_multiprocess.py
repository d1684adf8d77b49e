"""The directory of the metrics."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ext_authz.observability import multiprocess

ROUND_TRIP = """
from ext_authz.observability import multiprocess
directory = multiprocess.prepare()
assert multiprocess.directory() == directory
from ext_authz.observability.metrics import CHECKS
CHECKS.labels("r", "allowed").inc()
assert list(directory.glob("counter_*.db"))
print(directory)
"""


def test_comes_before_the_metrics() -> None:
    import prometheus_client  # noqa: F401 - now it is too late

    with pytest.raises(RuntimeError, match="comes before every import"):
        multiprocess.prepare()


def test_is_fresh_used_and_removed() -> None:
    done = subprocess.run([sys.executable, "-c", ROUND_TRIP], check=True, capture_output=True, text=True)
    from pathlib import Path

    assert not Path(done.stdout.strip()).exists()
