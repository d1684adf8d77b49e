"""Load from h2load on a core of its own, and what the measured processes spent meanwhile."""

from __future__ import annotations

import re
import shutil
import statistics
import subprocess
from pathlib import Path

import psutil
from msgspec import Struct

METHOD = "/envoy.service.auth.v3.Authorization/Check"
_CONNECTIONS, _STREAMS = 8, 16


class Spent(Struct, frozen=True):
    """Processor seconds of a process tree, and resident bytes of its largest process (a worker)."""

    cpu: float
    rss: int


class Result(Struct, frozen=True):
    """One run: calls a second, processor microseconds a call, latency in microseconds, memory of one worker."""

    rate: float
    cpu_us: float
    redis_us: float
    p50: float
    p99: float
    rss_mb: float


def require_h2load() -> str:
    """The path of h2load, or a sentence on how to get it."""
    if path := shutil.which("h2load"):
        return path
    raise SystemExit(
        "make bench needs h2load: apt-get install nghttp2-client (Debian, Ubuntu), brew install nghttp2 (macOS)"
    )


def spent(process: psutil.Process) -> Spent:
    """Of a process and everything below it."""
    tree = [process, *process.children(recursive=True)]
    times = [member.cpu_times() for member in tree]
    return Spent(sum(each.user + each.system for each in times), max(member.memory_info().rss for member in tree))


def closed_loop(port: int, body: Path, calls: int, server: psutil.Process, redis: psutil.Process) -> Result:
    """As fast as it goes: 8 connections with 16 streams each, 128 in flight."""
    arguments = ["-n", str(calls), "-c", str(_CONNECTIONS), "-m", str(_STREAMS)]
    log = body.with_suffix(".log")
    log.unlink(missing_ok=True)
    command = ["taskset", "-c", "1", require_h2load(), *arguments, "-d", str(body), f"--log-file={log}"]
    command += ["-H", "content-type: application/grpc", "-H", "te: trailers", f"http://127.0.0.1:{port}{METHOD}"]
    before, redis_before = spent(server), spent(redis)
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    after, redis_after = spent(server), spent(redis)
    assert f"{calls} succeeded" in output, output
    latencies = sorted(int(line.split("\t")[2]) for line in log.read_text().splitlines())
    return Result(
        rate=float(re.search(r"([\d.]+) req/s", output)[1]),  # type: ignore[index]
        cpu_us=(after.cpu - before.cpu) / calls * 1e6,
        redis_us=(redis_after.cpu - redis_before.cpu) / calls * 1e6,
        p50=statistics.median(latencies),
        p99=latencies[int(len(latencies) * 0.99)],
        rss_mb=after.rss / 1e6,
    )
