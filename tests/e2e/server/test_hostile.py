"""Who reaches the port and speaks HTTP/2 badly on purpose: nobody else notices, and memory stays flat.

Over h2corn, which has its own HTTP/2. What grpcio makes of the same floods stands in ADR 20.
"""

from __future__ import annotations

import asyncio
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest

from ext_authz.server import h2corn
from tests.e2e.server.front import Callers, counted, front_with_admin, hang_up
from tests.e2e.server.hostile import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    HEADER_TABLE_SIZE,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Hostile,
    beside,
    setting,
    wire,
)
from tests.e2e.server.raw import frame
from tests.e2e.server.serving import Serving, serving, unary
from tests.services import wait_for

pytestmark = pytest.mark.alone

FLAT = 32 << 20
"""Bytes that a worker may grow by meanwhile. Each of the floods sends far more, or makes the server say far more."""
SECONDS = 2.0

Chunk = Callable[[], bytes]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving(tmp_path_factory.mktemp("hostile"), "h2corn") as running:
        with closing(Hostile(running.port)) as warm:
            warm.read()
            warm.flood(lambda: warm.check(b"warm")[1], 0.5)
        yield running


def rapid_reset(hostile: Hostile) -> Chunk:
    """CVE-2023-44487."""

    def once() -> bytes:
        stream, whole = hostile.check(b"sleep 30")
        return whole + wire(RST_STREAM, 0, stream, struct.pack(">I", 8))

    return lambda: b"".join(once() for _ in range(100))


def made_to_reset(hostile: Hostile) -> Chunk:
    """CVE-2025-8671: an error that makes the server reset the stream, on one after the other."""
    hostile.read()

    def once() -> bytes:
        stream, whole = hostile.check(b"sleep 30")
        return whole + wire(WINDOW_UPDATE, 0, stream, struct.pack(">I", 0))

    return lambda: b"".join(once() for _ in range(100))


def checks(hostile: Hostile) -> Chunk:
    """More than can be answered."""
    hostile.read()
    return lambda: b"".join(hostile.check(b"echoed")[1] for _ in range(100))


def header_bomb(hostile: Hostile) -> Chunk:
    """A header of 4 kB, kept in the dynamic table, three thousand times in each request: a byte each."""
    hostile.read()
    hostile.send(hostile.opened(("x", "y" * 4000))[1])

    def once() -> bytes:
        stream, _ = hostile.opened()
        return wire(HEADERS, END_HEADERS, stream, hostile.headers() + b"\xbe" * 3000)

    return lambda: b"".join(once() for _ in range(20))


def dynamic_table(hostile: Hostile) -> Chunk:
    """Ever new headers, and a table without an end for the answers."""
    hostile.read()
    hostile.send(setting(HEADER_TABLE_SIZE, 2**32 - 1))
    numbers = iter(range(10**9))
    return lambda: b"".join(hostile.check(b"echoed", (f"n{next(numbers)}", "v" * 500))[1] for _ in range(50))


def continuations(hostile: Hostile) -> Chunk:
    """CVE-2024-27316: headers that do not end."""
    hostile.send(hostile.opened(flags=0)[1])
    return lambda: wire(CONTINUATION, 0, 1, b"\x00\x01a\x01b" * 3000)


def empty_continuations(hostile: Hostile) -> Chunk:
    hostile.send(hostile.opened(flags=0)[1])
    return lambda: wire(CONTINUATION, 0, 1) * 1000


def empty_data(hostile: Hostile) -> Chunk:
    """CVE-2019-9518."""
    hostile.send(hostile.opened()[1])
    return lambda: wire(DATA, 0, 1) * 1000


def padding(hostile: Hostile) -> Chunk:
    hostile.read()
    hostile.send(hostile.opened()[1])
    return lambda: wire(DATA, PADDED, 1, b"\xff" + bytes(255)) * 100


def repeated(data: bytes) -> Callable[[Hostile], Chunk]:
    """And nothing is read of what the server has to say to it."""
    return lambda hostile: lambda: data * 1000


ENDED = {
    "rapid reset": rapid_reset,
    "continuations": continuations,
    "settings": repeated(wire(SETTINGS, 0, 0)),  # CVE-2019-9515
    "pings": repeated(wire(PING, 0, 0, b"12345678")),  # CVE-2019-9512
}
WITHOUT_EFFECT = {
    "made to reset": made_to_reset,
    "checks": checks,
    "header bomb": header_bomb,
    "dynamic table": dynamic_table,
    "empty continuations": empty_continuations,
    "empty data": empty_data,
    "padding": padding,
    "priorities": repeated(wire(PRIORITY, 0, 1, struct.pack(">IB", 0, 5))),  # CVE-2019-9513
    "window updates": repeated(wire(WINDOW_UPDATE, 0, 0, struct.pack(">I", 1))),
    "unknown frames": repeated(wire(0xBE, 0, 0, bytes(100))),
}


@pytest.mark.parametrize("attack", ENDED.values(), ids=ENDED)
def test_a_flood_that_is_ended(server: Serving, attack: Callable[[Hostile], Chunk]) -> None:
    with beside(server) as seen, closing(Hostile(server.port)) as hostile:
        assert hostile.flood(attack(hostile), 20), "the connection is still there"
    assert (seen.failures, seen.growth < FLAT) == ([], True), seen


@pytest.mark.parametrize("attack", WITHOUT_EFFECT.values(), ids=WITHOUT_EFFECT)
def test_a_flood_without_effect(server: Serving, attack: Callable[[Hostile], Chunk]) -> None:
    """A slow machine answers others more slowly meanwhile: each of them within two seconds."""
    until = time.monotonic() + 30
    with beside(server) as seen, closing(Hostile(server.port)) as hostile:
        chunk = attack(hostile)
        hostile.flood(chunk, SECONDS)
        while seen.answered <= 10 and time.monotonic() < until:
            hostile.flood(chunk, SECONDS)
    assert (seen.failures, seen.growth < FLAT) == ([], True), seen
    assert seen.answered > 10


def test_a_megabyte_of_headers(server: Serving) -> None:
    with beside(server) as seen, closing(Hostile(server.port)) as hostile:
        hostile.send(hostile.opened(flags=0)[1])
        with suppress(ConnectionError):
            hostile.send(wire(CONTINUATION, 0, 1, bytes(16_000)) * 64)
        assert hostile.seconds_until_ended() < 5
    assert (seen.failures, seen.growth < FLAT) == ([], True), seen


def test_answers_that_are_not_read(server: Serving) -> None:
    """A window of zero: they are kept for ten seconds."""
    with beside(server) as seen, closing(Hostile(server.port)) as hostile:
        hostile.send(setting(INITIAL_WINDOW_SIZE, 0))
        begun = time.monotonic()
        for _ in range(h2corn.MAX_STREAMS):
            hostile.send(hostile.check(b"x" * 4_000)[1])
        hostile.received(RST_STREAM, 1)
        assert 5 < time.monotonic() - begun < 15
    assert (seen.failures, seen.growth < FLAT) == ([], True), seen


def stops_after(greeting: bytes) -> Callable[[Serving], float]:
    def wait(server: Serving) -> float:
        with closing(Hostile(server.port, greeting)) as hostile:
            return hostile.seconds_until_ended()

    return wait


def dribbles(server: Serving) -> float:
    """A byte of a message every half second, so no pause is long."""
    begun, over = time.monotonic(), threading.Event()
    with closing(Hostile(server.port)) as hostile:
        stream, opening = hostile.opened()
        hostile.send(opening + wire(DATA, 0, stream, frame(b"", size=1000)))

        def dribble() -> None:
            while not over.wait(0.5):
                hostile.send(wire(DATA, 0, stream, b"x"))

        dribbling = threading.Thread(target=dribble)
        dribbling.start()
        try:
            assert hostile.received(HEADERS, stream)
        finally:
            over.set()
            dribbling.join()
    return time.monotonic() - begun


SLOW = {
    "nothing": stops_after(b""),
    "half a preface": stops_after(PREFACE[:10]),
    "half a header block": stops_after(PREFACE + wire(SETTINGS, 0, 0) + wire(HEADERS, 0, 1, b"\x83")),
    "a message in bytes": dribbles,
}


@pytest.fixture(scope="module")
def cut_off(server: Serving) -> dict[str, float]:
    """After how many seconds. They wait at the same time: each takes ten."""
    with ThreadPoolExecutor(len(SLOW)) as threads:
        return dict(zip(SLOW, threads.map(lambda each: each(server), SLOW.values()), strict=True))


@pytest.mark.parametrize("who", SLOW)
def test_who_stops_in_the_middle_is_cut_off(cut_off: dict[str, float], who: str) -> None:
    assert 5 < cut_off[who] < 15


def test_messages_that_never_become_whole(server: Serving) -> None:
    """Their memory is theirs for ten seconds: it is bounded by the streams of a connection, and given back."""
    with beside(server) as seen, closing(Hostile(server.port)) as hostile:
        hostile.read()
        for _ in range(h2corn.MAX_STREAMS):
            stream, opening = hostile.opened()
            hostile.send(opening + wire(DATA, 0, stream, frame(b"x" * 4_000, size=200_000)))
    assert (seen.failures, seen.growth < FLAT) == ([], True), seen


def test_two_thousand_idle_connections(server: Serving) -> None:
    with beside(server) as seen, ExitStack() as idle:
        for _ in range(2000):
            idle.enter_context(closing(Hostile(server.port)))
        assert server.call(b"a new connection") == b"a new connection"
    assert (seen.failures, seen.growth < 2 * FLAT) == ([], True), seen


def test_more_connections_than_files(tmp_path: Path) -> None:
    """Those above the bound wait; the worker lives on, and who is connected is answered."""
    with serving(tmp_path, "h2corn", files=512) as server, server.channel() as channel:
        check = unary(channel)
        worker = check(b"pid", timeout=5)
        with ExitStack() as idle:
            for _ in range(600):
                idle.enter_context(closing(Hostile(server.port)))
            assert check(b"pid", timeout=5) == worker
        wait_for(lambda: server.call(b"pid") == worker)


async def test_callers_of_envoy_who_hang_up_fail_no_other_check(tmp_path: Path) -> None:
    """Each makes Envoy reset a check, and 200 resets make h2corn close a connection, whoever else is on it."""
    with (
        serving(tmp_path, "h2corn", factory="build_slow_allow") as server,
        front_with_admin(tmp_path, [server.port]) as (port, admin),
    ):
        async with Callers(port, 20) as callers:
            while counted(admin, "cluster.authorizers.upstream_rq_tx_reset") < 500:
                await asyncio.gather(*(hang_up(port) for _ in range(50)))
            await callers.until_more(20)
    assert set(callers.answers) == {"200"}, callers.answers
