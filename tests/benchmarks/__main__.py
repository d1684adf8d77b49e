"""`make bench`: one run on one machine, the server on core 0, everything else on core 1. Prints a Markdown table."""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import psutil

from tests.benchmarks.load import Result, closed_loop, open_loop, require_h2load
from tests.benchmarks.world import World, authorizer, empty_server, empty_service, messages, world

Server = Callable[[], AbstractContextManager[tuple[psutil.Process, int]]]

_RUNS = 3
_CALLS = 30_000
_RATE, _SECONDS = 1000, 10
_HEADER = ("what", "calls/s", "CPU us/call", "Redis us/call", "p50 us", "p99 us", "RSS MB")


def main() -> None:
    """Every row is the median of three runs after a warm-up."""
    require_h2load()
    with tempfile.TemporaryDirectory() as directory, world(Path(directory)) as here:
        bodies = {name: here.body(name, message) for name, message in messages().items()}
        rows = {
            "empty `grpc.aio`": _closed(here, lambda: empty_server("aio"), bodies["good"]),
            "empty `grpcio` thread pool": _closed(here, lambda: empty_server("threads"), bodies["good"]),
            "empty service, grpcio": _closed(here, lambda: empty_service(here, "grpcio"), bodies["good"]),
            "empty service, h2corn": _closed(here, lambda: empty_service(here, "h2corn"), bodies["good"]),
            f"empty service, h2corn, at {_RATE}/s": _open(here, lambda: empty_service(here, "h2corn"), bodies["good"]),
            "**full check, h2corn**": _closed(here, lambda: authorizer(here, "h2corn"), bodies["good"]),
            "full check, grpcio": _closed(here, lambda: authorizer(here, "grpcio"), bodies["good"]),
            "cold check (RS256), h2corn": _closed(
                here, lambda: authorizer(here, "h2corn", token_cache_size="0"), bodies["good"]
            ),
            "junk token, h2corn": _closed(here, lambda: authorizer(here, "h2corn"), bodies["junk"]),
            "bad signature, h2corn": _closed(here, lambda: authorizer(here, "h2corn"), bodies["badsig"]),
            f"full check, h2corn, at {_RATE}/s": _open(here, lambda: authorizer(here, "h2corn"), bodies["good"]),
        }
    _print(rows)


def _closed(here: World, server: Server, body: Path) -> Result:
    with server() as (process, port):
        closed_loop(port, body, _CALLS // 3, process, here.redis)
        return _median([closed_loop(port, body, _CALLS, process, here.redis) for _ in range(_RUNS)])


def _open(here: World, server: Server, body: Path) -> Result:
    with server() as (process, port):
        closed_loop(port, body, _CALLS // 3, process, here.redis)
        return _median([open_loop(port, body, _RATE, _SECONDS, process, here.redis) for _ in range(_RUNS)])


def _median(runs: list[Result]) -> Result:
    return Result(*(statistics.median(column) for column in zip(*map(_columns, runs), strict=True)))


def _columns(result: Result) -> tuple[float, ...]:
    return result.rate, result.cpu_us, result.redis_us, result.p50, result.p99, result.rss_mb


def _print(rows: dict[str, Result]) -> None:
    lines = [" | ".join(_HEADER), "|".join("---" for _ in _HEADER)]
    for name, result in rows.items():
        lines.append(
            " | ".join((name, *(f"{value:,.1f}" if value < 100 else f"{value:,.0f}" for value in _columns(result))))
        )
    h2corn, aio, threads = (list(rows.values())[index].rate for index in (5, 0, 1))
    lines.append(f"\nfull check under h2corn: {h2corn / threads:.1f} x the thread pool, {h2corn / aio:.1f} x grpc.aio")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
