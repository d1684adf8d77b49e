"""What every page has: the site that it belongs to, cookies, headers, templates, files; and what a form must bring."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from hashlib import sha256
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from msgspec import Struct
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from ext_authz.api.rest import FORM, form_fields

_MEDIA_TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
_MOST_FIELDS = 1000
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Refused(Exception):
    """This request gets an error page; `detail` says what is wrong and what to do."""

    def __init__(self, status: int, title: str, detail: str) -> None:
        super().__init__(title)
        self.status = status
        self.title = title
        self.detail = detail


class Site(Struct, frozen=True):
    """Where pages are, as browsers see it."""

    url: str
    """`https://models.example.com/tollgate`."""
    provider: str
    """Origin of the identity provider: a form that signs out leads there."""

    @property
    def origin(self) -> str:
        """As browsers write it."""
        parts = urlsplit(self.url.lower())
        return f"{parts.scheme}://{parts.netloc}".removesuffix(":443" if self.secure else ":80")

    @property
    def secure(self) -> bool:
        return self.url.startswith("https://")

    @property
    def may_sign_in(self) -> bool:
        """Over plain http cookies could be stolen on the way."""
        return self.secure or urlsplit(self.url).hostname in _LOOPBACK

    def cookie(self, name: str) -> str:
        """`__Host-`: no subdomain, and nobody on plain http, can have set it."""
        return f"__Host-{name}" if self.secure else name

    def set_cookie(self, response: Response, name: str, value: str, lasts: int | None = None) -> None:
        """Lax: the browser brings it along when the identity provider sends the person back. Empty: removed."""
        age = lasts if value else 0
        response.set_cookie(
            self.cookie(name), value, max_age=age, path="/", secure=self.secure, httponly=True, samesite="lax"
        )


class Form(Struct, frozen=True):
    """What a form sent."""

    fields: Mapping[str, list[str]] = {}

    def one(self, name: str) -> str:
        """Without blanks around it; empty where it is missing."""
        return next(iter(self.fields.get(name, ())), "").strip()

    def several(self, name: str) -> tuple[str, ...]:
        return tuple(self.fields.get(name, ()))


class Responses:
    """Made of what is in the folders `templates` and `static` of `folder`."""

    def __init__(self, site: Site, prefix: str, folder: Path) -> None:
        """`prefix`: of the paths of all pages."""
        self.site = site
        self._files = {file.name: file.read_bytes() for file in sorted((folder / "static").iterdir())}
        versions = {name: sha256(content).hexdigest()[:16] for name, content in self._files.items()}
        # Every value is escaped, and a name that is missing is an error.
        self._templates = Environment(
            loader=FileSystemLoader(folder / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.globals["static"] = lambda name: f"{prefix}/static/{name}?v={versions[name]}"

    def page(self, template: str, status: int, values: Mapping[str, object], *, script: bool = False) -> Response:
        """`script`: whether one of ours may run there."""
        html = self._templates.get_template(template).render(values)
        return self.protected(HTMLResponse(html, status), script=script)

    def redirect(self, url: str) -> Response:
        """`url`: ours, or of the identity provider's own discovery; never a caller's that was not checked."""
        return self.protected(RedirectResponse(url, HTTPStatus.SEE_OTHER))

    def file(self, name: str) -> Response:
        if name not in self._files:
            raise HTTPException(HTTPStatus.NOT_FOUND)
        response = self.protected(Response(self._files[name], media_type=_MEDIA_TYPES[Path(name).suffix]))
        response.headers["cache-control"] = "public, max-age=31536000, immutable"  # its address has its hash
        return response

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


def ensure_same_origin(request: Request, site: Site) -> None:
    """Every browser sends one of the two headers with a POST, and no page can choose them. Raises Refused."""
    origin, where = request.headers.get("origin"), request.headers.get("sec-fetch-site")
    if (origin is None and where is None) or origin not in (None, site.origin) or where not in (None, "same-origin"):
        detail = f"Nothing was changed. Open {site.url}/ and do it there."
        raise Refused(403, "This did not come from a page of ours", detail)


async def form_of(request: Request, csrf: str) -> Form:
    """Of the session whose forms have this `csrf`. Its size was bounded before (`bodies.py`). Raises Refused."""
    try:
        fields = await form_fields(request, _MOST_FIELDS)
    except ValueError:
        raise Refused(400, "This form cannot be read", "Load the page again and repeat it.") from None
    if fields is None:
        raise Refused(415, "This is not a form", f"Send the form of the page, as {FORM}.")
    form = Form(fields)
    if not hmac.compare_digest(form.one("csrf").encode(), csrf.encode()):
        raise Refused(403, "This form is out of date", "Nothing was changed. Load the page again and repeat it.")
    return form
