"""The directory of the metrics."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

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
    assert not Path(done.stdout.strip()).exists()


NOWHERE = """
import tempfile
from ext_authz.errors import ConfigError
from ext_authz.observability import multiprocess
tempfile._candidate_tempdir_list = lambda: ["/nowhere"]
try:
    multiprocess.prepare()
except ConfigError as wrong:
    print(wrong)
"""


def test_without_any_place_there_is_one_sentence() -> None:
    done = subprocess.run([sys.executable, "-c", NOWHERE], check=True, capture_output=True, text=True)
    assert done.stdout == "TMPDIR: no directory for temporary files can be written: set it to one that can\n"
