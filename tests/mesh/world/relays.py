"""TCP between network namespaces and this machine, which nothing else connects."""

from __future__ import annotations

import asyncio
import ctypes
import socket
from contextlib import closing, suppress
from pathlib import Path
from threading import Event, Thread

_CLONE_NEWNET = 0x40000000

Target = tuple[str, str, int] | str
"""Namespace (empty: this machine's), host and port; or a Unix socket of this machine."""


class Relays:
    """TCP from one namespace into another, by sockets that one thread makes there."""

    def __init__(self) -> None:
        self._started = Event()
        self._servers: list[asyncio.Server] = []
        self._thread = Thread(target=lambda: asyncio.run(self._serve()))
        self._thread.start()
        self._started.wait()

    def add(self, namespace: str, host: str, port: int, target: Target) -> int:
        """The port that it listens on: any one for 0."""
        return asyncio.run_coroutine_threadsafe(self._listen(namespace, host, port, target), self._loop).result(10)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join()

    async def _serve(self) -> None:
        self._loop, self._stopped = asyncio.get_running_loop(), asyncio.Event()
        self._started.set()
        await self._stopped.wait()
        for server in self._servers:
            server.close()

    async def _listen(self, namespace: str, host: str, port: int, target: Target) -> int:
        listener = _socket_in(namespace)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))

        async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with closing(writer), suppress(OSError):
                back, forth = await _connected(target)
                with closing(forth):
                    await asyncio.gather(_copy(reader, forth), _copy(back, writer))

        self._servers.append(await asyncio.start_server(relay, sock=listener))
        return int(listener.getsockname()[1])


async def _connected(target: Target) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if isinstance(target, str):
        return await asyncio.open_unix_connection(target)
    namespace, *address = target
    connection = _socket_in(namespace)
    connection.setblocking(False)  # noqa: FBT003
    try:
        await asyncio.get_running_loop().sock_connect(connection, tuple(address))
    except OSError:
        connection.close()
        raise
    return await asyncio.open_connection(sock=connection)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with closing(writer), suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()


def _socket_in(namespace: str) -> socket.socket:
    """A socket stays in the namespace in which it was made."""
    if not namespace:
        return socket.socket()
    libc = ctypes.CDLL(None, use_errno=True)
    with Path("/proc/thread-self/ns/net").open() as own, Path("/run/netns", namespace).open() as other:
        if libc.setns(other.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"cannot enter {namespace}")
        try:
            return socket.socket()
        finally:
            libc.setns(own.fileno(), _CLONE_NEWNET)
