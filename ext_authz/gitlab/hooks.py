"""Where GitLab says that something happened: `POST /gitlab`, with the secret token of the webhook.

What it says is not read: GitLab is asked instead. So a message that is forged, late or twice does nothing but cost a
round. 200 means that what GitLab says now is in Postgres, and within a second in force at every authorizer.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import Awaitable, Callable

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from ext_authz.errors import Unavailable

log = logging.getLogger(__name__)

EVENTS = frozenset({"Member Hook", "Subgroup Hook", "Project Hook", "System Hook"})
"""Values of X-Gitlab-Event after which rights may be others; pushes, pipelines and the rest change none."""
PUSHES = frozenset({"Push Hook"})
"""After these only what the catalogue says of a project may be another."""
_UNKEPT = {"cache-control": "no-store"}

Complete = Callable[[], Awaitable[bool]]
"""`Rounds.complete`."""


def application(secret: str, rights: Complete, entries: Complete) -> Starlette:
    """`secret`: that GitLab sends as X-Gitlab-Token."""
    expected = secret.encode()

    async def told(request: Request) -> PlainTextResponse:
        given = request.headers.getlist("x-gitlab-token")
        if len(given) != 1 or not hmac.compare_digest(given[0].encode("latin-1"), expected):
            log.warning("webhook refused", extra={"detail": "X-Gitlab-Token is not the secret of the webhook"})
            return _answer(401, "X-Gitlab-Token is not the secret of this webhook")
        event = request.headers.get("x-gitlab-event")
        if event not in EVENTS | PUSHES:
            return _answer(200, "this event changes nothing here")
        try:
            learned = await asyncio.gather(*(each() for each in ((rights, entries) if event in EVENTS else (entries,))))
        except Unavailable as failure:
            return _answer(503, failure.detail)
        return _answer(200, "in force") if all(learned) else _answer(503, "GitLab or Postgres did not answer")

    routes = [Route("/healthz", _alive), Route("/gitlab", told, methods=["POST"])]
    return Starlette(routes=routes)


def _answer(status: int, text: str) -> PlainTextResponse:
    return PlainTextResponse(f"{text}\n", status, _UNKEPT)


async def _alive(_: Request) -> PlainTextResponse:
    return PlainTextResponse("alive\n")
