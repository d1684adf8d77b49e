"""What stands behind the world: keeps all that reached it, over REST and gRPC, and can go on answering for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from threading import Event, Thread

import h2.config
import h2.connection
import h2.events

from ext_authz.render.endpoints import LOOPBACK, Address, Triton

Pairs = list[tuple[str, str]]

_ENDLESS = ("/generate_stream", "/ModelStreamInfer")
_TICK = 0.02
_JSON = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
_EVENTS = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_EVENT = b"9\r\ndata: x\n\n\r\n"
_MESSAGE = b"\0\0\0\0\0"


@dataclass
class Reached:
    """One request, as it came."""

    headers: Pairs = field(default_factory=list)
    """In lower case; the pseudo-headers of HTTP/2 too, and for HTTP/1 those that say the same."""
    trailers: Pairs = field(default_factory=list)
    body: bytes = b""
    is_over: bool = False
    """The request has ended, or its stream was reset."""

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]

    @property
    def path(self) -> str:
        return self.all(":path")[0]


class Upstream:
    """Serves in a thread of its own. A stream goes on until it is cut; everything else is answered at once."""

    def __init__(self) -> None:
        self.reached: list[Reached] = []
        self.place = Triton()

    @contextmanager
    def running(self) -> Iterator[None]:
        ready, over = Event(), Event()
        thread = Thread(target=lambda: asyncio.run(self._serve(ready, over)))
        thread.start()
        try:
            assert ready.wait(10)
            yield
        finally:
            over.set()
            thread.join()

    async def _serve(self, ready: Event, over: Event) -> None:
        rest = await asyncio.start_server(_quietly(self._http1), LOOPBACK, 0)
        rpc = await asyncio.start_server(_quietly(self._http2), LOOPBACK, 0)
        self.place = Triton(*(Address(*server.sockets[0].getsockname()) for server in (rest, rpc)))
        ready.set()
        await asyncio.to_thread(over.wait)
        rest.close()
        rpc.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    async def _http1(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            request = Reached()
            method, path, _ = (await reader.readline()).decode("latin-1").split()
            request.headers = [(":method", method), (":path", path), *await _fields(reader)]
            request.headers += [(":authority", value) for value in request.all("host")]
            if request.all("transfer-encoding"):
                await _chunks(reader, request)
            else:
                request.body = await reader.readexactly(int("".join(request.all("content-length")) or 0))
            request.is_over = True
            self.reached.append(request)
            if path.endswith("/silence"):
                await reader.read()
            if not path.endswith(_ENDLESS):
                writer.write(_JSON)
                continue
            writer.write(_EVENTS)
            while True:
                writer.write(_EVENT)
                await writer.drain()
                await asyncio.sleep(_TICK)

    async def _http2(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        http2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="latin-1"))
        http2.initiate_connection()
        streams: dict[int, Reached] = {}
        ticking = asyncio.create_task(_tick(http2, writer, streams))
        try:
            while data := await _read(reader, writer, http2):
                for event in http2.receive_data(data):
                    self._take(event, http2, streams)
        finally:
            ticking.cancel()

    def _take(self, event: h2.events.Event, http2: h2.connection.H2Connection, streams: dict[int, Reached]) -> None:
        match event:
            case h2.events.RequestReceived():
                request = streams[event.stream_id] = Reached([(str(name), str(value)) for name, value in event.headers])
                self.reached.append(request)
                http2.send_headers(event.stream_id, [(":status", "200"), ("content-type", "application/grpc")])
            case h2.events.DataReceived():
                streams[event.stream_id].body += event.data
                http2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case h2.events.TrailersReceived():
                streams[event.stream_id].trailers += [(str(name), str(value)) for name, value in event.headers]
            case h2.events.StreamEnded():
                streams[event.stream_id].is_over = True
                if not streams[event.stream_id].path.endswith(_ENDLESS):
                    http2.send_data(event.stream_id, _MESSAGE)
                    http2.send_headers(event.stream_id, [("grpc-status", "0")], end_stream=True)
            case h2.events.StreamReset():
                streams.pop(event.stream_id).is_over = True


async def _tick(http2: h2.connection.H2Connection, writer: asyncio.StreamWriter, streams: dict[int, Reached]) -> None:
    """A message on every open stream that never ends."""
    while True:
        for number, request in list(streams.items()):
            if request.path.endswith(_ENDLESS) and http2.local_flow_control_window(number) > len(_MESSAGE):
                http2.send_data(number, _MESSAGE)
        writer.write(http2.data_to_send())
        await asyncio.sleep(_TICK)


async def _read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, http2: h2.connection.H2Connection) -> bytes:
    writer.write(http2.data_to_send())
    return await reader.read(65_536)


async def _fields(reader: asyncio.StreamReader) -> Pairs:
    found: Pairs = []
    while line := (await reader.readline()).rstrip(b"\r\n"):
        name, _, value = line.decode("latin-1").partition(":")
        found.append((name.lower(), value.strip()))
    return found


async def _chunks(reader: asyncio.StreamReader, request: Reached) -> None:
    while size := int((await reader.readline()).split(b";")[0], 16):
        request.body += await reader.readexactly(size)
        await reader.readline()
    request.trailers = await _fields(reader)


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def _quietly(serve: Serve) -> Serve:
    """Envoy comes and goes as it likes."""

    async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError, ValueError):
            await serve(reader, writer)
        writer.close()

    return served
