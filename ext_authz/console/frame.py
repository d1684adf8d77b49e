"""What every page has: the site that it belongs to, headers, a layout, times that people read, errors in sentences."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import sha256
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from msgspec import Struct
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from ext_authz.api.rest import allowed
from ext_authz.clock import Clock
from ext_authz.console.sessions import Flash
from ext_authz.console.visitors import Visitor
from ext_authz.phases.client_address import client_behind
from ext_authz.tokens.model import Actor

PREFIX = "/tollgate"
SESSION = "tollgate"
"""The cookie of a session."""
_HERE = Path(__file__).parent
_MEDIA_TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
_PLACE = re.compile(r"/tollgate(/[A-Za-z0-9_~:-][A-Za-z0-9._~:-]*)*/?(\?[A-Za-z0-9._~=&%+-]*)?", re.ASCII)
_LONGEST_PLACE = 512
_UNITS = ((86_400, "day"), (3600, "hour"), (60, "minute"))


class Site(Struct, frozen=True):
    """Where the console is, as browsers see it."""

    url: str
    """`https://models.example.com/tollgate`."""
    provider: str
    """Origin of the identity provider: a form that signs out leads there."""
    hops: int
    """Proxies in front that add to X-Forwarded-For."""
    resource: str = ""
    """Where callers reach the models; empty: where the console is."""

    @property
    def models(self) -> str:
        """An origin."""
        return self.resource or self.origin

    @property
    def origin(self) -> str:
        """As browsers write it."""
        parts = urlsplit(self.url.lower())
        return f"{parts.scheme}://{parts.netloc}".removesuffix(":443" if self.secure else ":80")

    @property
    def secure(self) -> bool:
        return self.url.startswith("https://")

    def cookie(self, name: str) -> str:
        """`__Host-`: no subdomain, and nobody on plain http, can have set it."""
        return f"__Host-{name}" if self.secure else name

    def set_cookie(self, response: Response, name: str, value: str, lasts: int | None = None) -> None:
        """Lax: the browser brings it along when the identity provider sends the person back. Empty: removed."""
        age = 0 if not value else lasts
        response.set_cookie(
            self.cookie(name), value, max_age=age, path="/", secure=self.secure, httponly=True, samesite="lax"
        )

    def address(self, request: Request) -> str:
        """Of the browser, behind the proxies."""
        peer = request.client.host if request.client else ""
        return client_behind(peer, request.headers.getlist("x-forwarded-for"), self.hops)


class Form(Struct, frozen=True):
    """What a form sent."""

    fields: Mapping[str, list[str]] = {}

    def one(self, name: str) -> str:
        """Without blanks around it; empty where it is missing."""
        return next(iter(self.fields.get(name, ())), "").strip()

    def several(self, name: str) -> tuple[str, ...]:
        return tuple(self.fields.get(name, ()))


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


class Frame:
    """Makes responses of templates."""

    def __init__(self, site: Site, clock: Clock) -> None:
        self.site = site
        self.clock = clock
        self._files = {file.name: file.read_bytes() for file in sorted((_HERE / "static").iterdir())}
        versions = {name: sha256(content).hexdigest()[:16] for name, content in self._files.items()}
        # Every value is escaped, and a name that is missing is an error.
        self._templates = Environment(
            loader=FileSystemLoader(_HERE / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.globals["static"] = lambda name: f"{PREFIX}/static/{name}?v={versions[name]}"
        self._templates.filters["time"] = shown_time
        self._templates.filters["distance"] = lambda at: distance(at.timestamp() - clock.now())

    def routes(self) -> list[Route]:
        return [Route(PREFIX + "/static/{name}", self._static)]

    def render(self, template: str, visit: Visit | None, *, status: int = 200, **values: object) -> Response:
        """A page. `script`, among the values: the one file of scripts that may run there."""
        visitor, path = (visit.visitor, visit.request.url.path) if visit else (None, "")
        common = {"visitor": visitor, "path": path, "notice": visit.flash.notice if visit else ""}
        common["csrf"] = visitor.session.csrf if visitor else ""
        html = self._templates.get_template(template).render(common | {"script": ""} | values)
        return self.protected(HTMLResponse(html, status), script=bool(values.get("script")))

    def error(self, visit: Visit | None, status: int, title: str, detail: str) -> Response:
        """A page that says what is wrong and what to do."""
        return self.render("error.html", visit, status=status, title=title, detail=detail)

    def redirect(self, url: str) -> Response:
        """`url`: ours, or of the identity provider's own discovery; never a caller's that was not checked."""
        return self.protected(RedirectResponse(url, HTTPStatus.SEE_OTHER))

    def protected(self, response: Response, *, script: bool = False) -> Response:
        """Kept by no cache, framed by no page, with nothing in it from elsewhere."""
        policy = f"default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self' {self.site.provider}"
        policy += "; base-uri 'none'; frame-ancestors 'none'" + ("; script-src 'self'" if script else "")
        response.headers.update(
            {
                "content-security-policy": policy,
                "cache-control": "no-store",
                # Not no-referrer: browsers would send `Origin: null` with our own forms.
                "referrer-policy": "same-origin",
                "x-content-type-options": "nosniff",
                "x-frame-options": "DENY",
                "cross-origin-opener-policy": "same-origin",
                "cross-origin-resource-policy": "same-origin",
            }
        )
        return response

    async def http_error(self, request: Request, error: Exception) -> Response:
        """Of paths and methods that are not here."""
        status = error.status_code if isinstance(error, HTTPException) else HTTPStatus.NOT_FOUND
        title = "There is no such page" if status == HTTPStatus.NOT_FOUND else "This page takes no such request"
        response = self.error(None, status, title, "Check the address, or begin at the start page.")
        if status == HTTPStatus.METHOD_NOT_ALLOWED:
            response.headers["allow"] = allowed(request)
        return response

    async def _static(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in self._files:
            raise HTTPException(HTTPStatus.NOT_FOUND)
        response = self.protected(Response(self._files[name], media_type=_MEDIA_TYPES[Path(name).suffix]))
        response.headers["cache-control"] = "public, max-age=31536000, immutable"  # its address has its hash
        return response


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
