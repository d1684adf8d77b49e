"""What a person does with a browser: log in, return with a session, log out. And the pages for it.

Everything that varies in a page is escaped; no page needs a script or another file.
"""

from __future__ import annotations

import hmac
import secrets
from html import escape

from authlib.common.urls import add_params_to_uri
from authlib.oauth2 import OAuth2Error
from authlib.oauth2.rfc6749 import BaseGrant
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from devstack.realm.endpoints import session_of_refresh_token
from devstack.realm.keys import INTERNAL
from devstack.realm.oauth import Fields, RealmRequest, RealmServer, form_of, query_of
from devstack.realm.sessions import Session
from devstack.realm.signals import Signals

WARNING = "Development identity provider: demo passwords in plain text, never for production"

_HEADERS = {
    "Cache-Control": "no-store",
    # No form-action: browsers apply it to the redirect back to the client too.
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'",
    # Not no-referrer: browsers would then send `Origin: null` with our own forms.
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}

_STYLE = """
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 26rem; margin: 3rem auto; padding: 0 1rem; color: #1b1b1b; }
label { display: block; margin-top: 1rem; }
input { font: inherit; width: 100%; padding: .5rem; box-sizing: border-box; }
button { font: inherit; margin-top: 1.5rem; padding: .5rem 1.5rem; }
.warning { border-left: .4rem solid #b35900; padding: .2rem .8rem; background: #fff4e5; }
[role=alert] { border-left: .4rem solid #b00020; padding: .2rem .8rem; background: #fdecee; }
"""

_IDENTITY, _FORM = "DEVREALM_IDENTITY", "DEVREALM_FORM"
"""Cookies: who is logged in, and which login form is ours."""


class Browser:
    """The authorization and the logout endpoint."""

    def __init__(self, server: RealmServer, signals: Signals, issuer: str) -> None:
        self._server = server
        self._signals = signals
        self._issuer = issuer
        self._path = f"/realms/{server.realm.name}/"

    async def authorize(self, request: Request) -> Response:
        """GET: the login form, or with a session the answer at once. POST: the login form comes back."""
        oauth_request = RealmRequest(request, query_of(request))
        session = self._session(request)
        try:
            grant = self._server.consent_grant(oauth_request, session)
        except OAuth2Error as error:
            return self._refused(oauth_request, error)
        except ValueError:  # Authlib declines to quote some characters in an error
            return message_page("This link does not work", "A parameter has characters that do not belong there.", 400)
        if request.method == "POST":
            return await self._log_in(request, oauth_request, grant)
        if session and grant.prompt != "login":
            return self._answer(oauth_request, session, grant)
        return self._login_form(request, oauth_request)

    async def log_out(self, request: Request) -> Response:
        """By `id_token_hint` at once, by refresh token as Keycloak's clients do, else after asking."""
        fields = await form_of(request) if request.method == "POST" else query_of(request)
        oauth_request = RealmRequest(request, fields)
        try:
            if request.method == "POST" and "refresh_token" in fields:
                token = session_of_refresh_token(self._server, oauth_request)
                await self._end(oauth_request, token.sid, str(token.claims["azp"]))
                return Response(status_code=204, headers={"Cache-Control": "no-cache"})
        except OAuth2Error as error:
            return self._server.error_response(oauth_request, error)
        try:
            ending = self._server.ending(oauth_request)
        except OAuth2Error:
            return message_page("You are still logged in", "The link to log out is not valid.", 400)
        if ending.needs_confirmation:
            return await self._log_out_after_asking(request, oauth_request, fields)
        answer = self._server.end(ending) or message_page("Logged out", "Your session has ended.")
        claims = ending.id_token_claims or {}
        if claims.get("typ") == "ID":  # else the answer is a refusal
            await self._end(oauth_request, str(claims.get("sid", "")), str(claims.get("azp", "")))
        return self._without_identity(answer)

    async def _end(self, oauth_request: RealmRequest, sid: str, client: str = "") -> None:
        if session := self._server.sessions.active(sid):
            who = session.user_id
            self._server.log.record("LOGOUT", oauth_request.address, clientId=client, userId=who, sessionId=sid)
        await self._signals.log_out(sid)

    async def _log_in(self, request: Request, oauth_request: RealmRequest, grant: BaseGrant) -> Response:
        form = await form_of(request)
        if not self._is_own_form(request, form):
            return message_page("This form is out of date", "Go back to the application and log in again.", 400)
        username = form.get("username", "")
        user = self._server.realm.authenticate(username, form.get("password", ""))
        if user is None:
            self._record(oauth_request, "LOGIN_ERROR", error="invalid_user_credentials")
            return self._login_form(request, oauth_request, failed_user=username)
        session = self._server.sessions.keep(self._server.sessions.begin(user, at_login_page=True))
        response = self._answer(oauth_request, session, grant)
        identity = self._server.keys.sign({"typ": "Serialized-ID", "iss": self._issuer, "sid": session.sid}, INTERNAL)
        # Lax: the browser must bring it along when an application sends the user here.
        response.set_cookie(_IDENTITY, identity, path=self._path, httponly=True, samesite="lax")
        return response

    def _answer(self, oauth_request: RealmRequest, session: Session, grant: BaseGrant) -> Response:
        self._record(oauth_request, "LOGIN", user=session.user_id, session=session.sid)
        return self._naming_issuer(self._server.authorization_response(oauth_request, session, grant))

    def _record(
        self, oauth_request: RealmRequest, kind: str, *, user: str = "", session: str = "", error: str = ""
    ) -> None:
        self._server.log.record(
            kind,
            oauth_request.address,
            details={"auth_method": "openid-connect", "redirect_uri": oauth_request.payload.redirect_uri},
            clientId=oauth_request.payload.client_id,
            userId=user,
            sessionId=session,
            error=error,
        )

    def _refused(self, oauth_request: RealmRequest, error: OAuth2Error) -> Response:
        """Back to the application if the request names one of its addresses, else only to the person."""
        if error.redirect_uri:
            return self._naming_issuer(self._server.error_response(oauth_request, error))
        return message_page("This link does not work", error.get_error_description() or str(error.error), 400)

    def _naming_issuer(self, response: Response) -> Response:
        """RFC 9207: authorization responses name the issuer."""
        response.headers["location"] = add_params_to_uri(response.headers["location"], [("iss", self._issuer)])
        response.headers["cache-control"] = "no-store"
        return response

    def _login_form(self, request: Request, oauth_request: RealmRequest, failed_user: str | None = None) -> Response:
        csrf = request.cookies.get(_FORM) or secrets.token_urlsafe(32)
        response = login_page(oauth_request.payload.client_id, csrf, failed_user=failed_user)
        response.set_cookie(_FORM, csrf, path=self._path, httponly=True, samesite="strict")
        return response

    async def _log_out_after_asking(self, request: Request, oauth_request: RealmRequest, fields: Fields) -> Response:
        session = self._session(request)
        if session is None:
            return message_page("Logged out", "There is no session in this browser.")
        if request.method == "POST" and self._is_own_form(request, fields):
            await self._end(oauth_request, session.sid)
            return self._without_identity(message_page("Logged out", "Your session has ended."))
        csrf = request.cookies.get(_FORM) or secrets.token_urlsafe(32)
        response = confirm_logout_page(csrf)
        response.set_cookie(_FORM, csrf, path=self._path, httponly=True, samesite="strict")
        return response

    def _session(self, request: Request) -> Session | None:
        claims = self._server.keys.verify(request.cookies.get(_IDENTITY, ""), INTERNAL)
        if claims is None or claims.get("typ") != "Serialized-ID":
            return None
        session = self._server.sessions.active(str(claims["sid"]))
        return session if session and self._server.realm.user(session.user_id) else None

    def _without_identity(self, response: Response) -> Response:
        response.delete_cookie(_IDENTITY, path=self._path, httponly=True, samesite="lax")
        return response

    def _is_own_form(self, request: Request, form: Fields) -> bool:
        """Double submit, and the origin where the browser sends it: cookies are shared between the ports of a host."""
        cookie, field = request.cookies.get(_FORM, ""), form.get("csrf", "")
        origin = request.headers.get("origin")
        here = f"{request.url.scheme}://{request.url.netloc}"
        return bool(cookie) and hmac.compare_digest(cookie.encode(), field.encode()) and origin in (None, here)


def login_page(client_name: str, csrf: str, *, failed_user: str | None = None) -> HTMLResponse:
    """The form; it posts to the address it came from, which carries the authorization request."""
    failed = failed_user is not None
    alert = '<p role="alert" id="problem">Wrong user name or password.</p>' if failed else ""
    broken = ' aria-invalid="true" aria-describedby="problem"' if failed else ""
    username = escape(failed_user or "")
    body = f"""{alert}
<form method="post">
<input type="hidden" name="csrf" value="{escape(csrf)}">
<label for="username">User name</label>
<input id="username" name="username" autocomplete="username" required autofocus{broken} value="{username}">
<label for="password">Password</label>
<input id="password" name="password" type="password" autocomplete="current-password" required{broken}>
<button type="submit">Log in</button>
</form>"""
    return _page(f"Log in to {client_name}", body)


def confirm_logout_page(csrf: str) -> HTMLResponse:
    body = f"""<p>This ends your session at all applications of this realm.</p>
<form method="post">
<input type="hidden" name="csrf" value="{escape(csrf)}">
<button type="submit">Log out</button>
</form>"""
    return _page("Log out?", body)


def message_page(title: str, text: str, status: int = 200) -> HTMLResponse:
    return _page(title, f"<p>{escape(text)}</p>", status)


def front_page(realm: str, issuer: str) -> HTMLResponse:
    discovery = escape(f"{issuer}/.well-known/openid-configuration")
    return _page(f"Realm {realm}", f'<p><a href="{discovery}">{discovery}</a></p>')


def _page(title: str, body: str, status: int = 200) -> HTMLResponse:
    html = f"""<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title>
<style>{_STYLE}</style></head>
<body>
<p class="warning"><strong>{WARNING}.</strong></p>
<main>
<h1>{escape(title)}</h1>
{body}
</main>
</body>
</html>"""
    return HTMLResponse(html, status, _HEADERS)
