"""`make bench-overload`: more than one worker can do. Prints a table, each figure with its bound; the exit status is 1
if one is exceeded.

Each row: calls arrive at twice the measured capacity, at random (Poisson), for SECONDS; then at half of it. Capacity is
the most that closed loops of 128 and of 480 calls get in the same minute: a Redis far away needs many. The frozen
worker is stopped (SIGSTOP) for two seconds in the middle of half the load. The server has core 0, all else core 1.

The load is one Envoy, which has a bounded number of checks in flight and refuses more itself. In the row of many Envoys
nothing but the worker refuses, which costs it about what an empty handler does; its bound follows from that.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from urllib.parse import urlsplit

import psutil
from msgspec import Struct, structs

from ext_authz.render.endpoints import Timeouts
from tests.benchmarks.load import closed_loop
from tests.benchmarks.open_loop import ALLOWED, TIMEOUT, Call, Generator
from tests.benchmarks.world import REST_CORE, World, authorizer, empty_service, messages, world
from tests.services import free_port, wait_for

LATENCY = 0.2
"""Seconds that the slow Redis takes longer."""
STOPPED = 2.0
LEAST_GOODPUT = 0.8
OVERLOAD = 2
_ENVOY = Timeouts().checks
_CALLS = 60_000
_IN_FLIGHT = (128, _ENVOY)
_CLOSED_SECONDS, _HALF_SECONDS, _REST = 4.0, 5.0, 1.0
_HEADER = (
    "what",
    "capacity/s",
    "offered/s",
    "allowed/s",
    "goodput",
    "bound",
    "p99 ms",
    "then at half: refused after 1 s",
)


class Row(Struct, frozen=True):
    capacity: float
    offered: float
    allowed: float
    p99: float
    """Of what was allowed, in seconds."""
    refused_later: int
    """Of half the capacity, a second after the overload has ended."""
    least: float = LEAST_GOODPUT

    @property
    def goodput(self) -> float:
        return self.allowed / self.capacity

    @property
    def holds(self) -> bool:
        return self.goodput >= self.least and self.p99 < TIMEOUT and not self.refused_later


def main() -> int:
    """0 when every bound holds."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seconds", type=float, default=30, help="of overload in each row")
    seconds = arguments.parse_args().seconds
    rows: dict[str, Row] = {}
    with tempfile.TemporaryDirectory() as directory, world(Path(directory)) as here:
        with empty_service(here, "auto") as server:
            empty = _cost(here, server)
        with authorizer(here, "auto") as server:
            rows["cached token"] = _overloaded(server, seconds)
            rows[f"stopped for {STOPPED:.0f} s"] = _frozen(server, rows["cached token"].capacity)
            least = least_goodput(empty / _cost(here, server))
            rows["cached token, many Envoys"] = structs.replace(_overloaded(server, seconds, math.inf), least=least)
        with authorizer(here, "auto", token_cache_size="0") as server:
            rows["cold token (RS256)"] = _overloaded(server, seconds)
        with slow_redis(here.environ["TOLLGATE_REDIS_URL"]) as url, authorizer(here, "auto", redis_url=url) as server:
            rows[f"Redis {LATENCY * 1000:.0f} ms away"] = _overloaded(server, seconds)
    _print(rows)
    return 0 if all(row.holds for row in rows.values()) else 1


def least_goodput(share: float) -> float:
    """Of a server that has no more than its one core, where a refusal costs `share` of a check: what remains of the
    core after refusing, in checks. With allowed calls g of 1 and offered ones k: g + (k - g) * share = 1."""
    return max(0.0, (1 - OVERLOAD * share) / (1 - share))


def _cost(here: World, server: tuple[psutil.Process, int]) -> float:
    """Processor time of one call of a saturated server, as in `make bench`: this generator does not saturate an empty
    one."""
    return closed_loop(server[1], here.body("good", messages()["good"]), _CALLS, server[0], here.redis).cpu_us


def _overloaded(server: tuple[psutil.Process, int], seconds: float, most: float = _ENVOY) -> Row:
    generator = Generator(server[1], messages()["good"], most=most)
    generator.closed_loop(_IN_FLIGHT[0], _CLOSED_SECONDS / 2)
    done = [len(_allowed(generator.closed_loop(number, _CLOSED_SECONDS))) for number in _IN_FLIGHT]
    capacity = max(done) / _CLOSED_SECONDS
    calls = generator.open_loop(OVERLOAD * capacity, seconds)
    return _row(capacity, OVERLOAD * capacity, seconds, calls, generator.open_loop(capacity / 2, _HALF_SECONDS))


def _frozen(server: tuple[psutil.Process, int], capacity: float) -> Row:
    """At half the load: goodput is of what the load alone would get, the stop left out."""
    (worker,) = server[0].children()
    at, until = 1.0, 1.0 + STOPPED

    def stop(now: float) -> None:
        status = worker.status()
        if at <= now < until and status != psutil.STATUS_STOPPED:
            worker.send_signal(signal.SIGSTOP)
        elif now >= until and status == psutil.STATUS_STOPPED:
            worker.send_signal(signal.SIGCONT)

    calls = Generator(server[1], messages()["good"], most=_ENVOY).open_loop(capacity / 2, until + _HALF_SECONDS, stop)
    later = [Call(call.at - until, call.took, call.outcome) for call in calls if call.at >= until]
    return _row(capacity / 2, capacity / 2, _HALF_SECONDS, later, later)


def _row(capacity: float, offered: float, seconds: float, calls: list[Call], later: list[Call]) -> Row:
    allowed = sorted(call.took for call in _allowed(calls))
    p99 = allowed[int(len(allowed) * 0.99)] if allowed else TIMEOUT
    refused = sum(call.outcome != ALLOWED for call in later if call.at > _REST)
    return Row(capacity, offered, len(allowed) / seconds, p99, refused)


def _allowed(calls: list[Call]) -> list[Call]:
    return [call for call in calls if call.outcome == ALLOWED]


@contextmanager
def slow_redis(url: str) -> Iterator[str]:
    """A way to Redis that takes LATENCY longer, in a process of its own."""
    port = free_port()
    there = urlsplit(url)
    proxy = get_context("spawn").Process(target=_forward, args=(port, there.hostname, there.port), daemon=True)
    proxy.start()
    wait_for(lambda: _listens(port))
    try:
        yield there._replace(netloc=f"127.0.0.1:{port}").geturl()
    finally:
        proxy.kill()
        proxy.join()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return not probe.connect_ex(("127.0.0.1", port))


def _forward(port: int, host: str, redis_port: int) -> None:
    os.sched_setaffinity(0, {REST_CORE})

    async def serve() -> None:
        server = await asyncio.start_server(carry, "127.0.0.1", port)
        await server.serve_forever()

    async def carry(caller: asyncio.StreamReader, to_caller: asyncio.StreamWriter) -> None:
        redis, to_redis = await asyncio.open_connection(host, redis_port)
        await asyncio.gather(_pump(caller, to_redis, LATENCY), _pump(redis, to_caller, 0))

    asyncio.run(serve())


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seconds: float) -> None:
    loop = asyncio.get_running_loop()
    while data := await reader.read(1 << 16):
        loop.call_later(seconds, writer.write, data)
    loop.call_later(seconds, writer.close)


def _print(rows: dict[str, Row]) -> None:
    lines = [" | ".join(_HEADER), "|".join("---" for _ in _HEADER)]
    for name, row in rows.items():
        figures = f"{row.capacity:,.0f} | {row.offered:,.0f} | {row.allowed:,.0f} | {row.goodput:.0%} | {row.least:.0%}"
        held = "" if row.holds else " **(exceeded)**"
        lines.append(f"{name} | {figures} | {row.p99 * 1000:,.0f} | {row.refused_later}{held}")
    lines.append(f"\nBounds: goodput as above, p99 {TIMEOUT * 1000:,.0f} ms, none refused later.")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main())
