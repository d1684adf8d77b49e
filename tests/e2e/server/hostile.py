"""HTTP/2 frames as no library would send them, and a well-behaved caller beside whoever sends them."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import grpc
import hpack
import psutil

from ext_authz.server.rpc import CHECK
from tests.e2e.server.raw import frame
from tests.e2e.server.serving import Serving, unary

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PING, WINDOW_UPDATE, CONTINUATION = 0, 1, 2, 3, 4, 6, 8, 9
END_STREAM, END_HEADERS, PADDED = 0x1, 0x4, 0x8
HEADER_TABLE_SIZE, INITIAL_WINDOW_SIZE = 1, 4

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
CALL = [
    (":method", "POST"),
    (":path", CHECK),
    (":scheme", "http"),
    (":authority", "tollgate"),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
]

GOOD_SECONDS = 2.0
"""The deadline of the well-behaved caller. The machine is shared, and the flood comes from it too."""


def wire(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One HTTP/2 frame, whatever it means."""
    return len(payload).to_bytes(3, "big") + struct.pack(">BBI", kind, flags, stream) + payload


def setting(name: int, value: int) -> bytes:
    return wire(SETTINGS, 0, 0, struct.pack(">HI", name, value))


class Hostile:
    """A connection that sends what it is told."""

    def __init__(self, port: int, greeting: bytes = PREFACE + wire(SETTINGS, 0, 0)) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self._encoder = hpack.Encoder()
        self._reading: threading.Thread | None = None
        self._stream = -1
        self.send(greeting)

    def close(self) -> None:
        with contextlib.suppress(OSError):  # it was ended already
            self._socket.shutdown(socket.SHUT_RDWR)
        if self._reading is not None:
            self._reading.join()
        self._socket.close()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def opened(self, *more: tuple[str, str], flags: int = END_HEADERS) -> tuple[int, bytes]:
        """A new stream, and the HEADERS frame that opens a check on it."""
        self._stream += 2
        return self._stream, wire(HEADERS, flags, self._stream, self.headers(*more))

    def headers(self, *more: tuple[str, str]) -> bytes:
        return self._encoder.encode([*CALL, *more])

    def check(self, message: bytes, *more: tuple[str, str]) -> tuple[int, bytes]:
        """A new stream, and a whole check on it."""
        stream, opening = self.opened(*more)
        return stream, opening + wire(DATA, END_STREAM, stream, frame(message))

    def flood(self, chunk: Callable[[], bytes], seconds: float) -> bool:
        """Send as fast as it goes. True if the server ended the connection."""
        end = time.monotonic() + seconds
        try:
            while time.monotonic() < end:
                self.send(chunk())
        except ConnectionError:
            return True
        return False

    def read(self) -> None:
        """Read on and throw away, so that the server can always write."""
        self._reading = threading.Thread(target=self.seconds_until_ended)
        self._reading.start()

    def seconds_until_ended(self) -> float:
        """Read until the server ends the connection."""
        begun = time.monotonic()
        with contextlib.suppress(ConnectionError):
            while self._socket.recv(65_536):
                pass
        return time.monotonic() - begun

    def received(self, kind: int, stream: int) -> bool:
        """Read until such a frame has come (True) or the server has ended the connection."""
        heard = b""
        while data := self._socket.recv(65_536):
            heard += data
            while len(heard) >= 9 + (size := int.from_bytes(heard[:3], "big")):
                if (heard[3], int.from_bytes(heard[5:9], "big")) == (kind, stream):
                    return True
                heard = heard[9 + size :]
        return False


@dataclass
class Beside:
    """What a well-behaved caller and the memory of the worker saw of it."""

    answered: int = 0
    failures: list[str] = field(default_factory=list)
    before: int = 0
    most: int = 0

    @property
    def growth(self) -> int:
        """Of the worker's resident memory at its highest, in bytes."""
        return self.most - self.before


@contextmanager
def beside(server: Serving) -> Iterator[Beside]:
    """Checks, one after the other, on one connection that was there before."""
    (worker,) = server.workers()
    seen = Beside(before=worker.memory_info().rss)
    over = threading.Event()
    with server.channel() as channel:
        check = unary(channel)
        check(b"a connection", timeout=GOOD_SECONDS)
        calling = threading.Thread(target=_call, args=(check, worker, seen, over))
        calling.start()
        try:
            yield seen
        finally:
            over.set()
            calling.join()


def _call(
    check: grpc.UnaryUnaryMultiCallable[bytes, bytes], worker: psutil.Process, seen: Beside, over: threading.Event
) -> None:
    while not over.wait(0.01):
        try:
            assert check(b"good", timeout=GOOD_SECONDS) == b"good"
            seen.answered += 1
        except grpc.RpcError as refused:
            seen.failures.append(str(refused.code()))
        seen.most = max(seen.most, worker.memory_info().rss)
