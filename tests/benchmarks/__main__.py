"""`make bench`: one run on one machine, the server on core 0, everything else on core 1. Prints a Markdown table.

Rows without a rate are saturated: 128 calls in flight from h2load. At a rate calls arrive as a Poisson process
(`open_loop.py`): paced connections would fire in step, and their latency is no user's.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import psutil

from tests.benchmarks.load import Result, closed_loop, require_h2load
from tests.benchmarks.open_loop import Generator, at_rate
from tests.benchmarks.world import World, authorizer, empty_server, empty_service, good_token, messages, world
from tests.e2e.server.front import front_with_admin

Server = Callable[[], AbstractContextManager[tuple[psutil.Process, int]]]

_RUNS = 3
_CALLS, _SLOW_CALLS = 20_000, 6_000
_RATES, _SECONDS = (100, 1000, 3000), 6
_BOTH_CORES = "0,1"
_HEADER = ("what", "calls/s", "CPU us/call", "Redis us/call", "p50 us", "p99 us", "RSS MB", "calls/s, x `grpc.aio`")
_AIO, _THREADS = "empty `grpc.aio`", "empty `grpcio` thread pool"
_EMPTY, _FULL, _COLD, _JUNK = "empty ASGI, h2corn", "**full check, h2corn**", "cold check (RS256)", "junk token"
_ENVOY, _ASKING, _ENVOY_RATES = "Envoy alone", "Envoy that asks the authorizer", (200, 1000)
_ONE, _TWO = "one worker, both cores", "two workers, both cores"


def main() -> None:
    """Saturated rows are the median of three runs after a warm-up, rows at a rate one run."""
    require_h2load()
    rows: dict[str, Result] = {}
    with tempfile.TemporaryDirectory() as directory, world(Path(directory)) as here:
        bodies = {name: here.body(name, message) for name, message in messages().items()}
        good = bodies["good"]

        def closed(name: str, server: Server, body: Path = good, calls: int = _CALLS) -> None:
            with server() as (process, port):
                rows[name] = _closed(here, process, port, body, calls)

        def both(name: str, server: Server) -> None:
            with server() as (process, port):
                rows[name] = _closed(here, process, port, good, _CALLS)
                for rate in _RATES:
                    generator = Generator(port, messages()["good"])
                    rows[_at(name, rate)] = at_rate(generator, rate, _SECONDS, process, here.redis)

        closed(_AIO, lambda: empty_server("aio"), calls=_SLOW_CALLS)
        closed(_THREADS, lambda: empty_server("threads"))
        closed("empty service, grpcio", lambda: empty_service(here, "grpcio"), calls=_SLOW_CALLS)
        both(_EMPTY, lambda: empty_service(here, "h2corn"))
        both(_FULL, lambda: authorizer(here, "h2corn"))
        closed(_COLD, lambda: authorizer(here, "h2corn", token_cache_size="0"), calls=_SLOW_CALLS)
        closed(_JUNK, lambda: authorizer(here, "h2corn"), bodies["junk"])
        closed("bad signature", lambda: authorizer(here, "h2corn"), bodies["badsig"])
        closed(_ONE, lambda: authorizer(here, "h2corn", cores=_BOTH_CORES))
        closed(_TWO, lambda: authorizer(here, "h2corn", cores=_BOTH_CORES, workers="2"))
        closed("full check, grpcio", lambda: authorizer(here, "grpcio"), calls=_SLOW_CALLS)
        rows |= _through_envoy(here)
    _print(rows)


def _through_envoy(here: World) -> dict[str, Result]:
    """What a caller sees of a real Envoy that answers by itself, with and without asking the authorizer first."""
    rows = {}
    request = {":path": "/v2/models/sentiment/infer", "content-type": "application/json"}
    request["authorization"] = f"Bearer {good_token()}"
    with authorizer(here, "h2corn") as (process, port):
        for name in (_ENVOY, _ASKING):
            with front_with_admin(here.directory, [port], asking=name is _ASKING) as (front, _):
                for rate in _ENVOY_RATES:
                    generator = Generator(front, b"{}", http=request)
                    rows[_at(name, rate)] = at_rate(generator, rate, _SECONDS, process, here.redis)
    return rows


def _at(name: str, rate: int) -> str:
    return f"{name.strip('*')}, at {rate:,}/s"


def _closed(here: World, process: psutil.Process, port: int, body: Path, calls: int) -> Result:
    closed_loop(port, body, calls // 3, process, here.redis)
    return _median([closed_loop(port, body, calls, process, here.redis) for _ in range(_RUNS)])


def _median(runs: list[Result]) -> Result:
    return Result(*(statistics.median(column) for column in zip(*map(_columns, runs), strict=True)))


def _columns(result: Result) -> tuple[float, ...]:
    return result.rate, result.cpu_us, result.redis_us, result.p50, result.p99, result.rss_mb


def _print(rows: dict[str, Result]) -> None:
    lines = [" | ".join(_HEADER), "|".join("---" for _ in _HEADER)]
    for name, result in rows.items():
        figures = (f"{value:,.1f}" if value < 100 else f"{value:,.0f}" for value in _columns(result))
        lines.append(" | ".join((name, *figures, f"{result.rate / rows[_AIO].rate:.2f}")))
    sys.stdout.write("\n".join((*lines, "", *_ratios(rows))) + "\n\n")


def _ratios(rows: dict[str, Result]) -> list[str]:
    """What is aimed at, each within this run."""
    empty, full = rows[_at(_EMPTY, 1000)], rows[_at(_FULL, 1000)]
    ratios = (
        ("full check, calls/s, to the empty grpc.aio", rows[_FULL].rate / rows[_AIO].rate, ">= 3.5"),
        ("full check, calls/s, to the empty thread pool", rows[_FULL].rate / rows[_THREADS].rate, ">= 2.5"),
        ("the same by CPU per call, where others use the cores too", rows[_AIO].cpu_us / rows[_FULL].cpu_us, ">= 3.5"),
        ("and to the thread pool", rows[_THREADS].cpu_us / rows[_FULL].cpu_us, ">= 2.5"),
        ("at 1,000/s, CPU, to the empty ASGI handler", full.cpu_us / empty.cpu_us, "<= 1.6"),
        ("at 1,000/s, p50, to the empty ASGI handler", full.p50 / empty.p50, "<= 1.7"),
        ("cold RS256, CPU, to a cached token", rows[_COLD].cpu_us / rows[_FULL].cpu_us, "<= 2.5"),
        ("junk, CPU, to a good token", rows[_JUNK].cpu_us / rows[_FULL].cpu_us, "<= 0.9"),
        (
            "two workers, calls/s, to one (cores shared with load and Redis)",
            rows[_TWO].rate / rows[_ONE].rate,
            ">= 1.9",
        ),
        ("RSS of a worker, MB", rows[_FULL].rss_mb, "<= 130"),
        *(
            (f"the authorizer behind Envoy at {rate:,}/s adds to {column}, us", _added(rows, rate, column), "-")
            for rate in _ENVOY_RATES
            for column in ("p50", "p99")
        ),
    )
    head = ["ratio | seen | aim", "---|---|---"]
    return head + [f"{what} | {seen:,.2f} | {aim}" for what, seen, aim in ratios]


def _added(rows: dict[str, Result], rate: int, column: str) -> float:
    with_it, without = (getattr(rows[_at(name, rate)], column) for name in (_ASKING, _ENVOY))
    return float(with_it - without)


if __name__ == "__main__":
    main()
