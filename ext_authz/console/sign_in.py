"""Signing in and out."""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from functools import partial

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ext_authz.console.frame import PREFIX, SESSION, Frame, Visit, place
from ext_authz.console.guard import Guard
from ext_authz.console.visitors import Visitors
from ext_authz.errors import ConfigError
from ext_authz.identity.identity import printable
from ext_authz.tokens.cipher import Cipher
from ext_authz.web.oidc import SignInRefused, Started
from ext_authz.web.pages import Refused

_STARTED = "tollgate-sign-in"
_STARTED_LASTS = 600
_CONTEXT = "console sign-in"
_LONGEST = 4096


class SignIn:
    """The pages before and after a session."""

    def __init__(self, frame: Frame, guard: Guard, visitors: Visitors, cipher: Cipher) -> None:
        self._frame = frame
        self._guard = guard
        self._visitors = visitors
        self._cipher = cipher

    def routes(self) -> list[Route]:
        def open_to_all(path: str, work: object) -> Route:
            return Route(PREFIX + path, partial(self._guard.answered, work), methods=["GET"])  # type: ignore[arg-type]

        return [
            open_to_all("", self._start),
            open_to_all("/", self._start),
            open_to_all("/login", self._login),
            open_to_all("/callback", self._callback),
            open_to_all("/signed-out", self._signed_out),
            self._guard.page("/logout", self._ask),
            self._guard.action("/logout", self._logout),
        ]

    async def _start(self, request: Request) -> Response:
        if await self._guard.visit(request):
            return self._frame.redirect(PREFIX + "/tokens")
        return self._frame.render("start.html", None)

    async def _login(self, request: Request) -> Response:
        """To the identity provider. A person who has a session there comes back at once."""
        if not self._frame.site.may_sign_in:
            detail = "Its cookies could be stolen on the way: have the operators serve it over https."
            raise Refused(403, "This console is served over plain http", detail)
        url, started = await self._visitors.begin(place(request.query_params.get("next", "")))
        response = self._frame.redirect(url)
        sealed = self._cipher.encrypt(msgspec.json.encode(started), _CONTEXT)
        self._frame.site.set_cookie(response, _STARTED, urlsafe_b64encode(sealed).decode(), _STARTED_LASTS)
        return response

    async def _callback(self, request: Request) -> Response:
        """The identity provider sends the person back."""
        site, query = self._frame.site, request.query_params
        started = self._started(request, query.get("state", ""))
        if "error" in query:
            code = printable(query["error"], 80)
            raise SignInRefused(f"the identity provider did not sign you in: {code}")
        cookie = await self._visitors.admit(
            query.get("code", "")[:_LONGEST],
            query.get("iss", ""),
            started,
            before=request.cookies.get(site.cookie(SESSION), ""),
            address=site.address(request),
        )
        response = self._frame.redirect(started.next)
        site.set_cookie(response, SESSION, cookie)
        site.set_cookie(response, _STARTED, "")
        return response

    def _started(self, request: Request, state: str) -> Started:
        """The sign-in that this browser began, and no other: else somebody could sign others in as themselves."""
        sealed = request.cookies.get(self._frame.site.cookie(_STARTED), "")
        try:
            opened = self._cipher.decrypt(urlsafe_b64decode(sealed.encode()), _CONTEXT)
            started = msgspec.json.decode(opened, type=Started)
        except (ConfigError, ValueError):
            started = None
        late = started is None or started.until < self._frame.clock.now()
        if started is None or late or not hmac.compare_digest(started.state.encode(), state.encode()):
            detail = "It took more than ten minutes, was begun in another browser, or was done already. Sign in again."
            raise Refused(400, "This sign-in cannot be finished", detail)
        return started

    async def _ask(self, visit: Visit) -> Response:
        return self._frame.render("logout.html", visit)

    async def _logout(self, visit: Visit) -> Response:
        site = self._frame.site
        cookie = visit.request.cookies[site.cookie(SESSION)]
        url = await self._visitors.leave(visit.visitor, cookie, f"{site.url}/signed-out")
        response = self._frame.redirect(url)
        site.set_cookie(response, SESSION, "")
        return response

    async def _signed_out(self, _: Request) -> Response:
        return self._frame.render("signed_out.html", None)
