"""TCP between network namespaces and this machine, which nothing else connects.

A process of its own, `python -m tests.mesh.world.relays`: in a thread of the tests it would wait for their callers, and
an authorizer would refuse requests because its Redis had not answered in time.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import socket
import subprocess
import sys
from contextlib import closing, suppress
from pathlib import Path

_CLONE_NEWNET = 0x40000000

Target = tuple[str, str, int] | str
"""Namespace (empty: this machine's), host and port; or a Unix socket of this machine."""


class Relays:
    """Started at once; it ends with this process at the latest."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.mesh.world.relays"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def add(self, namespace: str, host: str, port: int, target: Target) -> int:
        """The port that it listens on: any one for 0."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps([namespace, host, port, target]) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, f"no relay from {namespace} {host}:{port}"
        return int(answer)

    def stop(self) -> None:
        self._process.kill()
        self._process.communicate()


async def _serve() -> None:
    """Each line of standard input is a relay; the end of it is the end of all."""
    os.setpriority(os.PRIO_PROCESS, 0, -10)  # a network does not wait for a processor
    servers = []
    while line := await asyncio.to_thread(sys.stdin.readline):
        namespace, host, port, target = json.loads(line)
        listener = _socket_in(namespace)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        servers.append(await asyncio.start_server(_Relay(target).serve, sock=listener))
        sys.stdout.write(f"{listener.getsockname()[1]}\n")
        sys.stdout.flush()


class _Relay:
    def __init__(self, target: list[str | int] | str) -> None:
        self._target = target

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer), suppress(OSError):
            back, forth = await self._connected()
            with closing(forth):
                await asyncio.gather(_copy(reader, forth), _copy(back, writer))

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self._target, str):
            return await asyncio.open_unix_connection(self._target)
        namespace, *address = self._target
        connection = _socket_in(str(namespace))
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


if __name__ == "__main__":
    asyncio.run(_serve())
