"""What every page has: where the application is, cookies, headers, templates; and what a form must bring."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from hashlib import sha256
from http import HTTPStatus
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from msgspec import Struct
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from applications.sentiment.door import NotAnswered
from applications.sentiment.sessions import Session

PREFIX = "/sentiment"
COOKIE = "sentiment-app"
"""Named as the upstream in the policy: the door passes no others."""
_HERE = Path(__file__).parent
_MEDIA_TYPES = {".css": "text/css; charset=utf-8", ".svg": "image/svg+xml"}
_FORM_TYPE = "application/x-www-form-urlencoded"
_MOST_FIELDS = 20


class Site(Struct, frozen=True):
    """Where the application is, as browsers see it."""

    origin: str
    provider: str
    """Origin of the identity provider: a form that signs out leads there."""

    @property
    def secure(self) -> bool:
        return self.origin.startswith("https://")

    @property
    def may_sign_in(self) -> bool:
        """Over plain http the cookie could be stolen on the way."""
        return self.secure or urlsplit(self.origin).hostname in ("127.0.0.1", "localhost", "::1")

    def cookie(self, name: str) -> str:
        """`__Host-`: no subdomain, and nobody on plain http, can have set it."""
        return f"__Host-{name}" if self.secure else name

    def set_cookie(self, response: Response, name: str, value: str, lasts: int | None = None) -> None:
        """Lax: it comes along when the identity provider sends the person back. Empty: removed."""
        age = lasts if value else 0
        response.set_cookie(
            self.cookie(name), value, max_age=age, path="/", secure=self.secure, httponly=True, samesite="lax"
        )


class Frame:
    """Makes responses of templates."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self._files = {file.name: file.read_bytes() for file in sorted((_HERE / "static").iterdir())}
        versions = {name: sha256(content).hexdigest()[:16] for name, content in self._files.items()}
        self._templates = Environment(
            loader=FileSystemLoader(_HERE / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.globals["static"] = lambda name: f"{PREFIX}/static/{name}?v={versions[name]}"
        self._templates.filters["percent"] = lambda share: f"{100 * share:.0f} %"
        self._templates.filters["signed"] = lambda score: f"{score:+.2f}".replace("-", "\N{MINUS SIGN}")

    def render(self, template: str, session: Session | None, status: int = 200, **values: object) -> Response:
        common = {"session": session, "notice": session.taken_notice() if session else "", "page": ""}
        html = self._templates.get_template(template).render(common | values)
        return self._protected(HTMLResponse(html, status))

    def problem(self, session: Session | None, why: NotAnswered) -> Response:
        """A page that says what is wrong and what to do."""
        return self.render("problem.html", session, why.status, why=why)

    def redirect(self, url: str) -> Response:
        """`url`: a path of ours, or of the identity provider's own discovery."""
        return self._protected(RedirectResponse(url, HTTPStatus.SEE_OTHER))

    def file(self, name: str) -> Response:
        if name not in self._files:
            raise HTTPException(HTTPStatus.NOT_FOUND)
        response = self._protected(Response(self._files[name], media_type=_MEDIA_TYPES[Path(name).suffix]))
        response.headers["cache-control"] = "public, max-age=31536000, immutable"  # its address has its hash
        return response

    def _protected(self, response: Response) -> Response:
        """Kept by no cache, framed by no page, without scripts and anything from elsewhere."""
        policy = f"default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self' {self.site.provider}; "
        response.headers.update(
            {
                "content-security-policy": policy + "base-uri 'none'; frame-ancestors 'none'",
                "cache-control": "no-store",
                "referrer-policy": "same-origin",  # with no-referrer, browsers send `Origin: null` with our own forms
                "x-content-type-options": "nosniff",
                "cross-origin-opener-policy": "same-origin",
                "cross-origin-resource-policy": "same-origin",
            }
        )
        return response


def ensure_same_origin(request: Request, site: Site) -> None:
    """Every browser sends one of the two headers with a POST, and no page can choose them."""
    origin, where = request.headers.get("origin"), request.headers.get("sec-fetch-site")
    if (origin is None and where is None) or origin not in (None, site.origin) or where not in (None, "same-origin"):
        detail = f"Nothing was done. Open {site.origin}{PREFIX}/ and do it there."
        raise NotAnswered(403, "This did not come from a page of this application", detail)


async def form_of(request: Request, session: Session) -> Mapping[str, str]:
    """The fields of a form of this session. Its size was bounded before (`BoundedBodies`)."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _FORM_TYPE:
        raise NotAnswered(415, "This is not a form", "Send the form of the page.")
    try:
        fields = parse_qs((await request.body()).decode(), keep_blank_values=True, max_num_fields=_MOST_FIELDS)
    except ValueError:
        raise NotAnswered(400, "This form cannot be read", "Load the page again and repeat it.") from None
    if not hmac.compare_digest(fields.get("csrf", [""])[0].encode(), session.csrf.encode()):
        raise NotAnswered(403, "This form is out of date", "Nothing was done. Load the page again and repeat it.")
    return {name: values[0] for name, values in fields.items()}
