"""The layout of the console's pages, times that people read, errors in sentences."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path

from msgspec import Struct
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ext_authz.api.rest import allowed
from ext_authz.clock import Clock
from ext_authz.console.sessions import Flash
from ext_authz.console.visitors import Visitor
from ext_authz.phases.client_address import client_behind
from ext_authz.tokens.model import Actor
from ext_authz.web import pages as web
from ext_authz.web.pages import Form, Responses

PREFIX = "/tollgate"
SESSION = "tollgate"
"""The cookie of a session."""
_PLACE = re.compile(r"/tollgate(/[A-Za-z0-9_~:-][A-Za-z0-9._~:-]*)*/?(\?[A-Za-z0-9._~=&%+-]*)?", re.ASCII)
_LONGEST_PLACE = 512
_UNITS = ((86_400, "day"), (3600, "hour"), (60, "minute"))


class Site(web.Site, frozen=True):
    """Where the console is."""

    hops: int
    """Proxies in front that add to X-Forwarded-For."""
    resource: str = ""
    """Where callers reach the models; empty: where the console is."""

    @property
    def models(self) -> str:
        """An origin."""
        return self.resource or self.origin

    def address(self, request: Request) -> str:
        """Of the browser, behind the proxies."""
        peer = request.client.host if request.client else ""
        return client_behind(peer, request.headers.getlist("x-forwarded-for"), self.hops)


class Visit(Struct, frozen=True, kw_only=True):
    """One request of somebody who is signed in."""

    request: Request
    visitor: Visitor
    form: Form = Form()
    flash: Flash = Flash("")

    @property
    def actor(self) -> Actor:
        return self.visitor.actor

    @property
    def person(self) -> Actor:
        return self.visitor.person


class Frame(Responses):
    """Makes responses of templates."""

    site: Site

    def __init__(self, site: Site, clock: Clock) -> None:
        super().__init__(site, PREFIX, Path(__file__).parent)
        self.clock = clock
        self._templates.filters["time"] = shown_time
        self._templates.filters["distance"] = lambda at: distance(at.timestamp() - clock.now())

    def routes(self) -> list[Route]:
        return [Route(PREFIX + "/static/{name}", self._static)]

    def render(self, template: str, visit: Visit | None, *, status: int = 200, **values: object) -> Response:
        """A page. `script`, among the values: the one file of scripts that may run there."""
        visitor, path = (visit.visitor, visit.request.url.path) if visit else (None, "")
        common = {"visitor": visitor, "path": path, "notice": visit.flash.notice if visit else "", "script": ""}
        common["csrf"] = visitor.session.csrf if visitor else ""
        return self.page(template, status, common | values, script=bool(values.get("script")))

    def error(self, visit: Visit | None, status: int, title: str, detail: str) -> Response:
        """A page that says what is wrong and what to do."""
        return self.render("error.html", visit, status=status, title=title, detail=detail)

    async def http_error(self, request: Request, error: Exception) -> Response:
        """Of paths and methods that are not here."""
        status = error.status_code if isinstance(error, HTTPException) else HTTPStatus.NOT_FOUND
        title = "There is no such page" if status == HTTPStatus.NOT_FOUND else "This page takes no such request"
        response = self.error(None, status, title, "Check the address, or begin at the start page.")
        if status == HTTPStatus.METHOD_NOT_ALLOWED:
            response.headers["allow"] = allowed(request)
        return response

    async def _static(self, request: Request) -> Response:
        return self.file(request.path_params["name"])


def place(text: str) -> str:
    """Where to go after signing in: a page of the console, and the start page for anything else."""
    inside = len(text) <= _LONGEST_PLACE and _PLACE.fullmatch(text) is not None
    return text if inside else PREFIX + "/"


def shown_time(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def distance(seconds: float) -> str:
    """In words: `in 3 days`, `2 hours ago`."""
    size = abs(seconds)
    found = ((unit, name) for unit, name in _UNITS if size >= unit)
    unit, name = next(found, (0, ""))
    if not unit:
        return "in less than a minute" if seconds > 0 else "just now"
    count = round(size / unit)
    words = f"{count} {name}{'' if count == 1 else 's'}"
    return f"in {words}" if seconds > 0 else f"{words} ago"
