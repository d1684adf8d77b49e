"""What bounds a process that serves pages: no request has a large body, or one that does not come. More than `MAX_BODY`
bytes, or than `PATIENCE` seconds, are refused before anything reads them; and so many connections there are."""

from __future__ import annotations

import asyncio
from typing import Any

import uvicorn
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ext_authz.api.failures import Failure, too_large, too_slow
from ext_authz.api.rest import PROGRAMS, problem

MAX_BODY = 65_536
"""Bytes; the largest grant is a fifth of that."""

PATIENCE = 5.0
"""Seconds for the whole of a body: a client that sends a byte now and then holds a request no longer."""

MOST_CONNECTIONS = 1024
"""At a time, as many as Envoy opens to one cluster; with more, requests are answered 503. So the bodies that are being
read take 64 MiB at most."""

_TOO_LARGE = too_large(f"the body of a request has at most {MAX_BODY} bytes")
_TOO_SLOW = too_slow(f"the body of a request must come within {PATIENCE:g} seconds: send it again")


class BoundedBodies:
    """Middleware: reads a body to its end, and gives the application all of it at once."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = _TOO_LARGE if _announces_more(scope) else await _body(receive)
        if isinstance(body, Failure):
            await _refusal(scope, body)(scope, receive, send)
            return
        whole: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replayed() -> Message:
            return whole.pop() if whole else await receive()

        await self._app(scope, replayed, send)


def configuration(application: ASGIApp, **where: Any) -> uvicorn.Config:  # noqa: ANN401 - uvicorn's
    """Of a process that serves pages behind Envoy; `where`: it listens."""
    return uvicorn.Config(
        application,
        log_config=None,
        access_log=False,
        lifespan="off",
        proxy_headers=False,  # who the client is follows from how many proxies are trusted
        server_header=False,
        ws="none",
        timeout_graceful_shutdown=5,
        limit_concurrency=MOST_CONNECTIONS,
        **where,
    )


def _refusal(scope: Scope, failure: Failure) -> Response:
    """Programs read problems. What is left of the body is nothing that another request could follow on."""
    is_rest = str(scope["path"]).startswith(f"{PROGRAMS}/")
    answer = problem(failure) if is_rest else PlainTextResponse(f"{failure.detail}\n", failure.http)
    answer.headers["connection"] = "close"
    return answer


def _announces_more(scope: Scope) -> bool:
    length = Headers(scope=scope).get("content-length", "0")
    return not length.isdecimal() or int(length[:20]) > MAX_BODY


async def _body(receive: Receive) -> bytes | Failure:
    try:
        async with asyncio.timeout(PATIENCE):
            body = await _read(receive)
    except TimeoutError:
        return _TOO_SLOW
    return _TOO_LARGE if body is None else body


async def _read(receive: Receive) -> bytes | None:
    """None: it is too large. Of a client that went away, what had come."""
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > MAX_BODY:
            return None
    return body
