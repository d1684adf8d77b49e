"""No request to the console has a large body: more than `MAX_BODY` bytes are refused before anything reads them."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ext_authz.api.failures import too_large
from ext_authz.api.rest import PREFIX as REST
from ext_authz.api.rest import problem

MAX_BODY = 65_536
"""Bytes; the largest grant is a fifth of that."""

_DETAIL = f"the body of a request has at most {MAX_BODY} bytes"
_TOO_LARGE = PlainTextResponse(f"{_DETAIL}\n", 413)
_PROBLEM = problem(too_large(_DETAIL))


class BoundedBodies:
    """Middleware: reads a body to its end, and gives the application all of it at once."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = None if _announces_more(scope) else await _read(receive)
        if body is None:
            await _refusal(scope)(scope, receive, send)
            return
        whole: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replayed() -> Message:
            return whole.pop() if whole else await receive()

        await self._app(scope, replayed, send)


def _refusal(scope: Scope) -> Response:
    """Programs read problems."""
    return _PROBLEM if str(scope["path"]).startswith(f"{REST}/") else _TOO_LARGE


def _announces_more(scope: Scope) -> bool:
    length = Headers(scope=scope).get("content-length", "0")
    return not length.isdecimal() or int(length[:20]) > MAX_BODY


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
