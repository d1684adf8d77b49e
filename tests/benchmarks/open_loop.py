"""Calls that come when they come: Poisson arrivals at a rate, whatever the answers take. And as fast as it goes.

Speaks just enough HTTP/2 for one method, with prepared bytes, so that one core is enough to overload a server. A call
is timed from the moment at which it was due, also when it had to wait for a free stream.
"""

from __future__ import annotations

import math
import random
import selectors
import socket
import struct
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import psutil
from msgspec import Struct

from tests.benchmarks.load import METHOD, Result, spent

CONNECTIONS = 4
"""An Envoy opens one per worker thread."""
TIMEOUT = 2.5
"""Seconds that Envoy waits for a check (render/endpoints.py)."""
ALLOWED, REFUSED, FAILED = "allowed", "refused", "failed"
"""Failed: no verdict at all, in time."""

_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GOAWAY, _WINDOW = 0, 1, 3, 4, 6, 7, 8
_END_STREAM = _ACK = 1
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HEADER = struct.Struct(">HBBBL")
_UNAVAILABLE = 14
_GRPC = {
    ":path": METHOD,
    "content-type": "application/grpc",
    "te": "trailers",
    "grpc-timeout": f"{TIMEOUT * 1000:.0f}m",
}


class Call(Struct):
    """One call: seconds since the start, and until its end."""

    at: float
    took: float
    outcome: str
    code: int = 0
    """Of the CheckResponse."""


class _Connection:
    def __init__(self, host: str, port: int, ended: Callable[[float, int | None], None], *, http: bool) -> None:
        self.socket = socket.create_connection((host, port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.calls: dict[int, list[float | int | None]] = {}
        """By stream: when it was due, and what it was answered."""
        self.window = 65_535
        self.most = 100
        self._ended = ended
        self._http = http
        self._next = 1
        self._read = b""
        settings = struct.pack(">HLHL", 2, 0, 4, 2**20)  # no push, stream window
        self.out = bytearray(_PREFACE + _frame(_SETTINGS, 0, 0, settings) + _frame(_WINDOW, 0, 0, b"\x3f\xff\x00\x00"))

    def send(self, due: float, headers: bytes, body: bytes) -> None:
        stream, self._next = self._next, self._next + 2
        self.calls[stream] = [due, None]
        self.window -= len(body)
        self.out += _frame(_HEADERS, 4, stream, headers) + _frame(_DATA, _END_STREAM, stream, body)

    def has_room(self, size: int) -> bool:
        return len(self.calls) < self.most and self.window >= size

    def flush(self) -> None:
        while self.out:
            try:
                del self.out[: self.socket.send(self.out)]
            except BlockingIOError:
                return

    def receive(self) -> None:
        try:
            data = self.socket.recv(1 << 18)
        except BlockingIOError:
            return
        if not data:
            raise ConnectionError("the server closed a connection")
        data, at = self._read + data, 0
        while len(data) - at >= 9:
            high, low, kind, flags, stream = _HEADER.unpack_from(data, at)
            size = high << 8 | low
            if len(data) - at < 9 + size:
                break
            self._frame(kind, flags, stream, data, at + 9, size)
            at += 9 + size
        self._read = data[at:]

    def _frame(self, kind: int, flags: int, stream: int, data: bytes, at: int, size: int) -> None:
        if kind == _DATA and size and stream in self.calls:
            self.calls[stream][1] = _code(data[at : at + size])
            self.out += _frame(_WINDOW, 0, 0, struct.pack(">L", size))
        elif kind == _WINDOW and not stream:
            self.window += int.from_bytes(data[at : at + 4], "big")
        elif kind == _SETTINGS and not flags & _ACK:
            given = dict(struct.iter_unpack(">HL", data[at : at + size]))
            self.most = given.get(3, self.most)
            self.out += _frame(_SETTINGS, _ACK, 0, b"")
        elif kind == _PING and not flags & _ACK:
            self.out += _frame(_PING, _ACK, 0, data[at : at + size])
        elif kind == _GOAWAY:
            raise ConnectionError("the server sends us away")
        elif kind == _HEADERS and flags & _END_STREAM and self._http and stream in self.calls:
            self.calls[stream][1] = self.calls[stream][1] or 0
        ends = kind == _RESET or (kind in {_DATA, _HEADERS} and flags & _END_STREAM)
        if ends and stream in self.calls:  # a refusal may be followed by a reset: stop sending
            due, code = self.calls.pop(stream)
            self._ended(due, code)  # type: ignore[arg-type]


class Generator:
    """Belongs to one port and one message."""

    def __init__(
        self,
        port: int,
        message: bytes,
        *,
        http: Mapping[str, str] | None = None,
        most: float = math.inf,
        host: str = "127.0.0.1",
    ) -> None:
        """`http`: the headers of plain HTTP requests, which are allowed when the answer has no body.

        `most`: calls in flight of an open loop; those beyond are refused here, as by Envoy's circuit breaker.
        """
        self._headers = _headers(f"{host}:{port}", http or _GRPC)
        self._body = message if http else b"\0" + len(message).to_bytes(4, "big") + message
        self._http = http is not None
        self._host, self._port = host, port
        self._most = most
        self._calls: list[Call] = []
        self._started = 0.0

    def open_loop(self, rate: float, seconds: float, each: Callable[[float], None] | None = None) -> list[Call]:
        """Every call that was due within `seconds`. `each` is told the time now and then."""
        due = deque(_arrivals(rate, seconds))
        waiting: deque[float] = deque()
        with self._connected() as connections:
            while (now := self._now()) < seconds + TIMEOUT and (
                due or waiting or any(one.calls for one in connections)
            ):
                if each:
                    each(now)
                room = self._most - len(waiting) - sum(len(one.calls) for one in connections)
                while due and due[0] <= now:
                    if room > 0:
                        waiting.append(due.popleft())
                    else:
                        self._calls.append(Call(due.popleft(), 0, REFUSED))
                    room -= 1
                self._send(connections, waiting)
                self._turn(connections, min(0.001, max(0.0, due[0] - self._now())) if due else 0.01)
            lost = [*waiting, *(call[0] for one in connections for call in one.calls.values())]
        return [*self._calls, *(Call(float(at or 0), TIMEOUT, FAILED) for at in lost)]

    def closed_loop(self, at_a_time: int, seconds: float) -> list[Call]:
        """Always so many in flight."""
        with self._connected() as connections:
            while self._now() < seconds:
                free = at_a_time - sum(len(one.calls) for one in connections)
                self._send(connections, deque([self._now()] * free))
                self._turn(connections, 0.01)
        return self._calls

    @contextmanager
    def _connected(self) -> Iterator[list[_Connection]]:
        self._selector = selectors.DefaultSelector()
        connections = [_Connection(self._host, self._port, self._ended, http=self._http) for _ in range(CONNECTIONS)]
        for one in connections:
            one.socket.settimeout(0)
            self._selector.register(one.socket, selectors.EVENT_READ, one)
        self._started, self._calls = time.monotonic(), []
        try:
            yield connections
        finally:
            self._selector.close()
            for one in connections:
                one.socket.close()

    def _now(self) -> float:
        return time.monotonic() - self._started

    def _send(self, connections: list[_Connection], waiting: deque[float]) -> None:
        size = len(self._body)
        for one in random.sample(connections, len(connections)):
            most = -(-len(waiting) // 4)  # spread over a few
            while waiting and most and one.has_room(size):
                one.send(waiting.popleft(), self._headers, self._body)
                most -= 1
        for one in connections:
            one.flush()

    def _turn(self, connections: list[_Connection], seconds: float) -> None:
        for key, _ in self._selector.select(seconds):
            key.data.receive()
        for one in connections:
            one.flush()

    def _ended(self, due: float, code: int | None) -> None:
        took = self._now() - due
        if code is None or took > TIMEOUT:
            self._calls.append(Call(due, took, FAILED))
        else:
            self._calls.append(Call(due, took, REFUSED if code else ALLOWED, code))


def _arrivals(rate: float, seconds: float) -> Iterator[float]:
    at = random.expovariate(rate)
    while at < seconds:
        yield at
        at += random.expovariate(rate)


def _code(data: bytes) -> int:
    """Of a CheckResponse in a gRPC frame; its status comes first."""
    size = data[6]
    return data[8] if size else 0


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    size = len(payload)
    return _HEADER.pack(size >> 8, size & 255, kind, flags, stream) + payload


def _headers(authority: str, further: Mapping[str, str]) -> bytes:
    """HPACK, every field literal and not indexed (RFC 7541 section 6.2.2): no state to keep."""
    fields = {":method": "POST", ":scheme": "http", ":authority": authority, **further}
    return b"".join(b"\0" + _text(name) + _text(value) for name, value in fields.items())


def _text(text: str) -> bytes:
    """With its length before it, in seven bits and then as many as it takes (RFC 7541 section 5.1)."""
    size, length = len(text), bytearray()
    if size < 127:
        return bytes([size]) + text.encode()
    size -= 127
    while size >= 128:
        length.append(size & 127 | 128)
        size >>= 7
    return b"\x7f" + bytes(length) + bytes([size]) + text.encode()


def at_rate(generator: Generator, rate: float, seconds: float, server: psutil.Process, redis: psutil.Process) -> Result:
    """What calls cost and take that come at this rate; every one of them must be allowed."""
    before, redis_before = spent(server), spent(redis)
    calls = generator.open_loop(rate, seconds)
    after, redis_after = spent(server), spent(redis)
    assert all(call.outcome == ALLOWED for call in calls), Counter(call.outcome for call in calls)
    took = sorted(call.took * 1e6 for call in calls)
    return Result(
        rate=len(calls) / seconds,
        cpu_us=(after.cpu - before.cpu) / len(calls) * 1e6,
        redis_us=(redis_after.cpu - redis_before.cpu) / len(calls) * 1e6,
        p50=took[len(took) // 2],
        p99=took[int(len(took) * 0.99)],
        rss_mb=after.rss / 1e6,
    )


def summary(calls: list[Call], seconds: float) -> str:
    """Rates by outcome, and the latency of what was allowed."""
    outcomes = Counter(call.outcome for call in calls)
    took = sorted(call.took for call in calls if call.outcome == ALLOWED) or [0.0]
    refused = sorted(call.took for call in calls if call.outcome == REFUSED) or [0.0]
    rates = ", ".join(f"{name} {count / seconds:,.0f}/s" for name, count in outcomes.items())
    return (
        f"{rates}; allowed p50 {took[len(took) // 2] * 1e3:.0f} p99 {took[int(len(took) * 0.99)] * 1e3:.0f} ms; "
        f"refused p99 {refused[int(len(refused) * 0.99)] * 1e3:.0f} ms"
    )
