"""gRPC over ASGI: unary calls, with bytes in and bytes out.

This is the hot path of the fast server. Per call: one `receive`, three `send`s, no task, no timer, no closure.
An event leaves out what has its default value, as ASGI allows.
What a caller can get wrong about HTTP/2, gRPC or framing is answered here and never reaches a method.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from functools import lru_cache
from typing import Any

from ext_authz.server import rpc
from ext_authz.server.rpc import Method, RpcFailure

Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]

PREFIX = 5
"""Length of the frame prefix: compressed flag, then four bytes of size (gRPC over HTTP/2, Length-Prefixed-Message)."""

_GRPC = (b"application/grpc", b"application/grpc+proto")
_CONTENT_TYPE = (b"content-type", b"application/grpc")
_START: Event = {"type": "http.response.start", "status": 200, "headers": [_CONTENT_TYPE], "trailers": True}
_TRAILERS: Event = {"type": "http.response.trailers", "headers": [(b"grpc-status", b"0")]}

DEFAULT = b"10S"
"""For calls without one: a call is one small message, and a late answer is of no use."""

TICK = 0.01
_MARGIN = 0.05
_EXPIRED = -1.0
_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}

logger = logging.getLogger(__name__)


class Disconnected(Exception):
    """The caller went away before its message was whole."""


class Rpc:
    """An ASGI application without a lifespan. Made in the event loop that it answers in."""

    def __init__(self, methods: Mapping[str, Method], max_message: int) -> None:
        self._methods = dict(methods)
        self._max_message = max_message
        self._deadlines = Deadlines(asyncio.get_running_loop())

    async def __call__(self, scope: Event, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        method = self._methods.get(scope["path"])
        if method is None or scope["method"] != "POST" or headers.get(b"content-type") not in _GRPC:
            await _refuse_call(scope["method"], headers, send)
            return
        try:
            answer = await self._call(method, headers.get(b"grpc-timeout", DEFAULT), receive)
        except RpcFailure as failure:
            await _end_with(failure, send)
        except Disconnected:
            return
        else:
            await send(_START)
            await send({"type": "http.response.body", "body": b"\0" + len(answer).to_bytes(4, "big") + answer})
            await send(_TRAILERS)

    async def _call(self, method: Method, grpc_timeout: bytes, receive: Receive) -> bytes:
        task = self._deadlines.watch(grpc_timeout)
        try:
            return await method(await self._message(receive))
        except (RpcFailure, Disconnected):
            raise
        except asyncio.CancelledError:
            if self._deadlines.expired(task):
                raise rpc.TOO_LATE from None
            raise
        except Exception:
            logger.exception("a method failed")
            raise rpc.BUG from None
        finally:
            self._deadlines.forget(task)

    async def _message(self, receive: Receive) -> bytes:
        event = await receive()
        if event["type"] != "http.request":
            raise Disconnected
        body: bytes = event.get("body", b"")
        if event.get("more_body"):
            body = await self._whole(bytearray(body), receive)
        size = len(body) - PREFIX
        if size < 0 or body[0] or int.from_bytes(body[1:PREFIX], "big") != size or size > self._max_message:
            raise self._wrong_frame(body)
        return body[PREFIX:]

    async def _whole(self, body: bytearray, receive: Receive) -> bytes:
        """Read on until the caller is done; stop at once when it announces or sends too much."""
        while True:
            if len(body) >= PREFIX and int.from_bytes(body[1:PREFIX], "big") > self._max_message:
                raise rpc.TOO_LARGE
            if len(body) > self._max_message + PREFIX:
                raise rpc.CARDINALITY
            event = await receive()
            if event["type"] != "http.request":
                raise Disconnected
            body += event.get("body", b"")
            if not event.get("more_body"):
                return bytes(body)

    def _wrong_frame(self, body: bytes) -> RpcFailure:
        if not body:
            return rpc.CARDINALITY
        if body[0]:
            return rpc.COMPRESSED
        size = int.from_bytes(body[1:PREFIX], "big")
        if size > self._max_message:
            return rpc.TOO_LARGE
        return rpc.CARDINALITY if len(body) > PREFIX + size else rpc.TRUNCATED


async def _refuse_call(http_method: str, headers: Mapping[bytes, bytes], send: Send) -> None:
    if http_method != "POST":
        await _end(405, [(b"allow", b"POST")], send)
    elif headers.get(b"content-type") not in _GRPC:
        await _end(415, [(b"accept-post", b"application/grpc")], send)
    else:
        await _end_with(rpc.NO_SUCH_METHOD, send)


async def _end_with(failure: RpcFailure, send: Send) -> None:
    """A trailers-only answer: the status stands in the headers, and nothing follows."""
    headers = [_CONTENT_TYPE, (b"grpc-status", b"%d" % failure.code), (b"grpc-message", failure.text.encode())]
    if failure is rpc.COMPRESSED:
        headers.append((b"grpc-accept-encoding", b"identity"))
    await _end(200, headers, send)


async def _end(status: int, headers: list[tuple[bytes, bytes]], send: Send) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body"})


@lru_cache(maxsize=1024)
def allowance(timeout: bytes) -> float:
    """Seconds that a `grpc-timeout` header (at most eight digits and a unit) leaves for the answer.

    A tenth less than the caller waits, 50 ms at most: an answer in time ends the stream, while a caller who gives up
    resets it, and 200 resets within 10 s make h2corn close the connection under everybody else's calls.
    """
    digits, unit = timeout[:-1], _UNITS.get(timeout[-1:])
    if unit is None or not (0 < len(digits) <= 8 and digits.isdigit()):
        raise rpc.BAD_TIMEOUT
    whole = int(digits) * unit
    return whole - min(_MARGIN, whole / 10)


class Deadlines:
    """Cancels tasks that are still running when their `grpc-timeout` has passed, without a timer per call.

    Envoy sends a timeout with every check, so the usual timer (made, armed, cancelled: several microseconds) would cost
    every check something for the one in a million that runs late. Here a call is one entry in a dictionary, and one
    timer per loop looks through it every 10 ms while there are calls in flight.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._watched: dict[asyncio.Task[None] | None, float] = {}
        self._sweeping = False

    def watch(self, timeout: bytes) -> asyncio.Task[None] | None:
        """Watch the current task until `forget` is called with what this returns."""
        task = asyncio.current_task(self._loop)
        self._watched[task] = self._loop.time() + allowance(timeout)
        if not self._sweeping:
            self._sweeping = True
            self._loop.call_later(TICK, self._sweep)
        return task

    def expired(self, task: asyncio.Task[None] | None) -> bool:
        """Whether it was this deadline that cancelled the task. If so, the task counts as cancelled no longer."""
        late = self._watched.get(task) == _EXPIRED
        if late and task is not None:
            task.uncancel()
        return late

    def forget(self, task: asyncio.Task[None] | None) -> None:
        self._watched.pop(task, None)

    def _sweep(self) -> None:
        now = self._loop.time()
        for task, deadline in self._watched.items():
            if task is not None and _EXPIRED < deadline <= now:
                self._watched[task] = _EXPIRED
                task.cancel()
        self._sweeping = bool(self._watched)
        if self._sweeping:
            self._loop.call_later(TICK, self._sweep)
