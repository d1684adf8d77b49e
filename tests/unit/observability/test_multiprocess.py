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


GENERATIONS = """
import subprocess, sys
from ext_authz.observability import multiprocess
directory = multiprocess.prepare()
from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector
from ext_authz.observability.metric_files import forget

def seen():
    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    bucket = "tollgate_check_duration_seconds_bucket"
    buckets = [registry.get_sample_value(bucket, {"le": le}) for le in ("0.001", "0.25")]
    return registry.get_sample_value("tollgate_checks_total", {"route": "r", "reason": "allowed"}), buckets

for generation in range(1, 4):
    process = subprocess.Popen([sys.executable, "-c", CHILD])
    process.wait()
    child = process.pid
    before = seen()
    forget(child)
    assert seen() == before == (2.0 * generation, [1.0 * generation, 2.0 * generation]), seen()
    assert not list(directory.glob(f"*_{child}.db"))
print(sorted(file.name for file in directory.glob("*_dead.db")))
"""
CHILD = """
from ext_authz.observability.metrics import CHECKS, CHECK_SECONDS, DEPENDENCY_UP
DEPENDENCY_UP.labels("redis").set(1)
for seconds in (0.0005, 0.1):
    CHECKS.labels("r", "allowed").inc()
    CHECK_SECONDS.observe(seconds)
"""


def test_what_dead_processes_counted_stays_in_one_file_for_each_kind() -> None:
    """However many generations of workers come and go: nothing goes backwards, and no files pile up."""
    script = f"CHILD = {CHILD!r}\n{GENERATIONS}"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout == "['counter_dead.db', 'histogram_dead.db']\n"


FULL = """
import errno, os
from ext_authz.observability import multiprocess
directory = multiprocess.prepare()
room = os.posix_fallocate
def full(descriptor, offset, size):
    raise OSError(errno.ENOSPC, "No space left on device")
if WHEN == "start":
    os.posix_fallocate = full
from ext_authz.observability.metrics import CHECKS
from ext_authz.observability.metric_files import forget
from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector

def seen():
    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    return registry.get_sample_value("tollgate_checks_total", {"route": "r0", "reason": "allowed"})

CHECKS.labels("r0", "allowed").inc()
os.posix_fallocate = full
for number in range(2000):
    CHECKS.labels(f"r{number}", "allowed").inc()
assert CHECKS.labels("r0", "allowed")._value.get() == 2
print(seen())
forget(os.getpid())
print(seen())
os.posix_fallocate = room
forget(os.getpid())
print(seen(), all(file.stat().st_size for file in directory.glob("*")))
"""


@pytest.mark.parametrize(("when", "seen"), [("start", "None\nNone\nNone True\n"), ("later", "2.0\n2.0\n2.0 True\n")])
def test_without_space_for_its_metrics_a_process_goes_on(when: str, seen: str) -> None:
    """Else it would be killed (SIGBUS), and so would the one in its place."""
    script = f"WHEN = {when!r}\n{FULL}"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout == seen
    assert "No space" not in done.stderr
    assert ("not shown" if when == "start" else "stay as they are") in done.stderr
