"""The link that settlements travel over: one connection to one known Redis process.

redis-py connects (TLS, Unix sockets, AUTH, the way through a cluster) and hands the open transport over; from then on
this protocol reads and writes it. An end of file is seen when it comes: nothing has to be asked before a call.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.resources import files
from time import monotonic
from typing import Any, cast

from hiredis import ProtocolError, Reader, pack_command
from redis._parsers import BaseParser
from redis.asyncio.connection import AbstractConnection, SSLConnection
from redis.exceptions import ConnectionError as ConnectionLost
from redis.exceptions import NoScriptError, RedisError

from ext_authz.db import redis_keys
from ext_authz.db.redis import Address, Nodes, connection_at, connection_to
from ext_authz.db.sentinel import ToPrimary

_PARTS = files("ext_authz.settlement")


def _joined(name: str) -> str:
    """The script that settles is written in parts; Redis gets one."""
    text = _PARTS.joinpath(name).read_text()
    return re.sub(r"^-- include (\S+)$", lambda line: _joined(line[1]), text, flags=re.MULTILINE)


SCRIPT = _joined("settle.lua").encode()
SHA = hashlib.sha1(SCRIPT, usedforsecurity=False).hexdigest()

OnReply = Callable[[Any], None]
"""Called with the reply; or with the error that Redis answered (a RedisError: MovedError and AskError name the node in
`host` and `port`); or with ConnectionLost: what was done is unknown."""

Command = tuple[str | bytes | int, ...]
_LOAD: Command = ("SCRIPT", "LOAD", SCRIPT)
_ASKING: Command = ("ASKING",)


class Link(asyncio.Protocol):
    """One connection, bound to the Redis process at its other end. Replies come in the order of the commands.

    The process is known by its `run_id`, sent with every call: a restarted Redis has another one, so that it cannot
    vouch for revocations it may have lost.
    """

    def __init__(self, connection: AbstractConnection, tag: str) -> None:
        self.ended: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        """Why it is of no use any more."""
        self._connection = connection
        self._transport: asyncio.Transport | None = None
        self._tag = tag
        self._run_id = ""
        self._clock_offset_ms = 0.0
        self._waiting: deque[OnReply] = deque()
        self._reader = Reader(replyError=BaseParser.parse_error)

    @property
    def host(self) -> str:
        """Of the node; "" on a Unix socket."""
        return str(getattr(self._connection, "host", ""))

    @property
    def is_unanswered_over_tls(self) -> bool:
        """A Redis without TLS does not answer a TLS handshake: it waits for the end of a line."""
        return isinstance(self._connection, SSLConnection) and self._transport is None

    @property
    def credentials(self) -> Command:
        """What MIGRATE needs to authenticate to another node of the same cluster."""
        user, password = self._connection.username, self._connection.password
        if user:
            return "AUTH2", user, password or ""
        return ("AUTH", password) if password else ()

    async def open(self) -> None:
        """Connect, learn who is there, load the script. Refuses a Redis that may throw revocations away."""
        await self._connection.connect()  # type: ignore[no-untyped-call]
        writer = cast("asyncio.StreamWriter", self._connection._writer)  # noqa: SLF001 - it has no other way out
        self._transport = cast("asyncio.Transport", writer.transport)
        self._transport.set_protocol(self)
        asked_at = monotonic()
        server, memory, (seconds, micros), _ = await self.ask(("INFO", "server"), ("INFO", "memory"), ("TIME",), _LOAD)
        self.set_clock(int(seconds) * 1000 + int(micros) // 1000, asked_at)
        self._run_id = fields(server)["run_id"]
        _ensure_kept(fields(memory))

    def set_clock(self, redis_ms: int, asked_at: float) -> None:
        """Redis' wall clock against ours, from every reply, since either may be set.

        Redis read its clock between the call and now. The known offset stays as long as it fits: a reply that was read
        late bounds it poorly.
        """
        least, most = redis_ms - monotonic() * 1000, redis_ms + 1 - asked_at * 1000
        if not least <= self._clock_offset_ms <= most:
            self._clock_offset_ms = (least + most) / 2

    def settle(self, body: bytes, until: float, ledger_max: int, on_reply: OnReply, *, asking: bool = False) -> None:
        """Call the script, which does nothing when Redis gets to it only after `until` (monotonic time).

        `asking`: this node is about to get the shard, and takes the call only because another one sent us (ASK).
        """
        expires = int(until * 1000 + self._clock_offset_ms)
        call: Command = ("EVALSHA", SHA, 1, self._tag, body, self._run_id, expires, ledger_max)
        calls = (_ASKING, call) if asking else (call,)

        def load_first(reply: object) -> None:
            if isinstance(reply, NoScriptError):  # SCRIPT FLUSH
                self._send((_LOAD, *calls), on_reply)
            else:
                on_reply(reply)

        self._send(calls, load_first)

    async def ask(self, *commands: Command) -> list[Any]:
        """Their replies, in one round trip. Raises the first error among them."""
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[Any]] = [loop.create_future() for _ in commands]
        for command, future in zip(commands, futures, strict=True):
            self._send((command,), _into(future))
        return await asyncio.gather(*futures)

    def end(self, reason: Exception) -> None:
        """Cut it now, without sending what is still in the buffer: the other end may never take it."""
        if self.ended.done():
            return
        self.ended.set_result(reason)
        if self._transport:
            self._transport.abort()
        lost = ConnectionLost(str(reason))
        while self._waiting:
            self._waiting.popleft()(lost)

    async def end_when_replaced(self) -> None:
        """With Sentinel: a server that was cut off may serve on as if it were the primary."""
        if isinstance(self._connection, ToPrimary):
            await self._connection.until_replaced()
            self.end(ConnectionLost("its Sentinels name another primary"))

    async def close(self) -> None:
        self.end(ConnectionLost("closed"))
        await self._connection.disconnect(nowait=True)

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        try:
            while self._waiting and (reply := self._reader.gets()) is not False:
                self._waiting.popleft()(reply)
            nonsense = self._reader.has_data() and not self._waiting
        except ProtocolError:
            nonsense = True
        if nonsense:
            self.end(ConnectionLost("the other end does not speak the Redis protocol"))

    def eof_received(self) -> None:
        self.end(ConnectionLost("Redis closed the connection"))

    def connection_lost(self, exc: Exception | None) -> None:
        self.end(ConnectionLost(str(exc or "the connection broke")))

    def _send(self, commands: tuple[Command, ...], on_reply: OnReply) -> None:
        """Of several commands only the last one's reply is passed on."""
        self._waiting += (_ignored,) * (len(commands) - 1)
        self._waiting.append(on_reply)
        # redis-py's own packing is Python: 14 us, against 0.6 for a batch of one check.
        packed = b"".join(pack_command(command) for command in commands)  # type: ignore[arg-type]
        cast("asyncio.Transport", self._transport).write(packed)


@asynccontextmanager
async def open_link(url: str, shard: int, nodes: Nodes, seconds: float) -> AsyncIterator[Link]:
    """Connect to the Redis that holds the shard: the URL's, the cluster node that it points to, or the primary.

    Raises:
        RedisError, OSError, TimeoutError: there is none that could be used.
    """
    kind, options = connection_to(url, shard, nodes, socket_timeout=None)
    link = Link(kind(**options), redis_keys.shard_tag(shard))
    watch = None
    try:
        await _opened(link, seconds)
        watch = asyncio.create_task(link.end_when_replaced(), name="watch for another primary")
        yield link
    finally:
        if watch:
            watch.cancel()
        await link.close()


async def _opened(link: Link, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await link.open()
    except TimeoutError:
        raise TimeoutError("TLS: no answer" if link.is_unanswered_over_tls else "") from None


def link_at(url: str, shard: int, address: Address) -> Link:
    """A link to another node of the cluster, to be opened."""
    host, port = address
    kind, options = connection_at(url, host=host, port=port, socket_timeout=None)
    return Link(kind(**options), redis_keys.shard_tag(shard))


def _into(future: asyncio.Future[Any]) -> OnReply:
    def settle(reply: object) -> None:
        if future.done():
            return
        if isinstance(reply, Exception):
            future.set_exception(reply)
        else:
            future.set_result(reply)

    return settle


def _ignored(_reply: object) -> None:
    """An error of it is an error of the command after it, too."""


def _ensure_kept(memory: dict[str, str]) -> None:
    policy = memory["maxmemory_policy"]
    if memory["maxmemory"] != "0" and policy != "noeviction":
        raise RedisError(f"set Redis' maxmemory-policy to noeviction: under {policy} it drops revocations when full")


def fields(info: bytes) -> dict[str, str]:
    """What INFO answers."""
    lines = (line.partition(":") for line in info.decode().splitlines())
    return {name: value for name, colon, value in lines if colon}
