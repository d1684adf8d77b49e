"""Who gets to a page, and whose form counts: every page and every action of the console goes through here.

A GET changes nothing. A POST comes from a page of this origin, and brings what only forms of this session have.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from urllib.parse import quote

from msgspec.structs import replace
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ext_authz.console.frame import PREFIX, SESSION, Frame, Visit, place
from ext_authz.console.sessions import Flash, Sessions
from ext_authz.console.visitors import Visitors
from ext_authz.errors import Denied, Unavailable
from ext_authz.tokens.model import NotDone, Why
from ext_authz.web.oidc import SignInRefused
from ext_authz.web.pages import Refused, ensure_same_origin, form_of

log = logging.getLogger(__name__)

Handler = Callable[[Visit], Awaitable[Response]]

STATUS: Mapping[Why, tuple[int, str]] = {
    Why.INVALID: (400, "That cannot be done"),
    Why.TOO_WIDE: (403, "That is more than you may do"),
    Why.FORBIDDEN: (403, "You may not do that"),
    Why.NOT_FOUND: (404, "There is no such thing"),
    Why.CONFLICT: (409, "It has changed in the meantime"),
    Why.TOO_MANY: (409, "There are too many"),
}
"""The only table from causes to statuses and titles of pages."""

_AWAY = {
    "issuer": "The identity provider does not answer. Who is signed in can go on; try to sign in again in a minute.",
    "jwks": "The keys of the identity provider cannot be fetched. Try again in a minute.",
}
_STORE_AWAY = {
    "GET": "A store that the console needs does not answer, so this cannot be shown. Load the page again in a minute.",
    "POST": "A store does not answer, so what you did is not known to be in force everywhere. Repeat it in a minute: "
    "load this page again.",
}


class Guard:
    """Makes routes of handlers."""

    def __init__(self, frame: Frame, visitors: Visitors, sessions: Sessions) -> None:
        self._frame = frame
        self._visitors = visitors
        self._sessions = sessions

    def page(self, path: str, handler: Handler) -> Route:
        """Something that is looked at."""
        return Route(PREFIX + path, partial(self.answered, partial(self._page, handler)), methods=["GET"])

    def action(self, path: str, handler: Handler) -> Route:
        """Something that a form does."""
        return Route(PREFIX + path, partial(self.answered, partial(self._action, handler)), methods=["POST"])

    async def done(self, visit: Visit, path: str, notice: str = "", token: str = "") -> Response:
        """After something was done: to the page that shows it, which can be loaded again without doing it again."""
        where = PREFIX + path
        await self._sessions.leave(visit.visitor.session, Flash(where, notice, token))
        return self._frame.redirect(where)

    async def visit(self, request: Request) -> Visit | None:
        """None: nobody is signed in."""
        cookie = request.cookies.get(self._frame.site.cookie(SESSION), "")
        visitor = await self._visitors.find(cookie, self._frame.site.address(request)) if cookie else None
        return None if visitor is None else Visit(request=request, visitor=visitor)

    async def answered(self, work: Callable[[Request], Awaitable[Response]], request: Request) -> Response:
        """Whatever happens, it is a page."""
        try:
            return await work(request)
        except Refused as refused:
            return self._frame.error(None, refused.status, refused.title, refused.detail)
        except SignInRefused as refused:
            return self._frame.error(None, 403, "You are not signed in", f"{_sentence(str(refused))} Sign in again.")
        except Denied as refusal:
            return self._frame.error(None, 403, "You may not do that", _sentence(refusal.detail))
        except NotDone as why:
            status, title = STATUS[why.why]
            return self._frame.error(None, status, title, _sentence(why.detail))
        except Unavailable as away:
            log.warning("a page is not available", extra={"dependency": away.dependency, "detail": away.detail})
            return self._frame.error(
                None,
                503,
                "Not available now",
                _AWAY.get(away.dependency) or _STORE_AWAY.get(request.method, _STORE_AWAY["GET"]),
            )
        except Exception:
            log.exception("a page failed", extra={"route": request.url.path})
            detail = "Something is wrong with the console, and its operators find it in the log. Try again later."
            return self._frame.error(None, 500, "That went wrong", detail)

    async def _page(self, handler: Handler, request: Request) -> Response:
        visit = await self.visit(request)
        if visit is None:
            here = request.url.path + (f"?{request.url.query}" if request.url.query else "")
            return self._frame.redirect(f"{PREFIX}/login?next={quote(place(here), safe='')}")
        if request.method == "GET":  # a HEAD shows nothing
            visit = replace(visit, flash=await self._sessions.take(visit.visitor.session, request.url.path))
        return await handler(visit)

    async def _action(self, handler: Handler, request: Request) -> Response:
        ensure_same_origin(request, self._frame.site)
        visit = await self.visit(request)
        if visit is None:
            raise Refused(403, "You are signed out", "Nothing was changed. Sign in, and do it again.")
        form = await form_of(request, visit.visitor.session.csrf)
        return await handler(replace(visit, form=form))


def _sentence(text: str) -> str:
    """With a capital and a full stop."""
    return f"{text[:1].upper()}{text[1:]}" + ("" if text.endswith((".", "!", "?")) else ".")
