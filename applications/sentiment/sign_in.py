"""Signing in and out, and a fresh token for each call.

The protocol is that of `tollgate console` (its module `oidc`): code flow with PKCE, state and nonce, by Authlib.
"""

from __future__ import annotations

import hmac
from contextlib import suppress

import jwt
import msgspec
from cryptography.fernet import Fernet, InvalidToken
from starlette.requests import Request
from starlette.responses import Response

from applications.sentiment.door import NotAnswered, SignedOut
from applications.sentiment.frame import COOKIE, PREFIX, Frame
from applications.sentiment.sessions import Session, Sessions
from ext_authz.clock import Clock
from ext_authz.errors import Unavailable
from ext_authz.web.oidc import IdentityProvider, SessionOver, SignInRefused, Started, Tokens

_STARTED, _STARTED_LASTS = f"{COOKIE}.sign-in", 600
_EARLY = 30
"""Seconds before its end that an access token is renewed."""
_PAGES = {"": f"{PREFIX}/", "v2": f"{PREFIX}/v2/"}
"""Where one may come back to."""
_LONGEST = 4096


class SignIn:
    def __init__(self, frame: Frame, sessions: Sessions, provider: IdentityProvider, clock: Clock) -> None:
        self._frame = frame
        self._sessions = sessions
        self._provider = provider
        self._clock = clock
        self._sealed = Fernet(Fernet.generate_key())  # a sign-in does not outlive the process, nor does a session

    def session(self, request: Request) -> Session | None:
        return self._sessions.find(request.cookies.get(self._frame.site.cookie(COOKIE), ""))

    async def login(self, request: Request) -> Response:
        """To the identity provider. A person who has a session there comes back at once."""
        if not self._frame.site.may_sign_in:
            detail = "Its cookies could be stolen on the way: have the operators serve it over https."
            raise NotAnswered(403, "This application is served over plain http", detail)
        page = _PAGES.get(request.query_params.get("page", ""), _PAGES[""])
        url, started = await self._provider.begin(page)
        response = self._frame.redirect(url)
        sealed = self._sealed.encrypt(msgspec.json.encode(started)).decode()
        self._frame.site.set_cookie(response, _STARTED, sealed, _STARTED_LASTS)
        return response

    async def callback(self, request: Request) -> Response:
        """The identity provider sends the person back."""
        site, query = self._frame.site, request.query_params
        started = self._started(request, query.get("state", "")[:_LONGEST])
        if "error" in query:
            raise NotAnswered(403, "You are not signed in", "The identity provider did not sign you in. Sign in again.")
        tokens, subject = await self._provider.redeem(query.get("code", "")[:_LONGEST], query.get("iss", ""), started)
        self._sessions.end(request.cookies.get(site.cookie(COOKIE), ""))
        response = self._frame.redirect(started.next)
        site.set_cookie(response, COOKIE, self._sessions.create(subject, _name(tokens) or subject, tokens))
        site.set_cookie(response, _STARTED, "")
        return response

    def _started(self, request: Request, state: str) -> Started:
        """The sign-in that this browser began, and no other: else somebody could sign others in as themselves."""
        sealed = request.cookies.get(self._frame.site.cookie(_STARTED), "")
        try:
            started = msgspec.json.decode(self._sealed.decrypt(sealed.encode(), _STARTED_LASTS), type=Started)
        except (InvalidToken, msgspec.DecodeError):
            started = None
        if started is None or not hmac.compare_digest(started.state.encode(), state.encode()):
            detail = "It took more than ten minutes, was begun in another browser, or was done already. Sign in again."
            raise NotAnswered(400, "This sign-in cannot be finished", detail)
        return started

    async def logout(self, request: Request, session: Session) -> Response:
        """Here, and at the identity provider."""
        site = self._frame.site
        url = after = f"{site.url}/signed-out"
        with suppress(Unavailable):
            url = await self._provider.signed_out_url(session.tokens.id_token, after)
        self._sessions.end(request.cookies.get(site.cookie(COOKIE), ""))
        response = self._frame.redirect(url)
        site.set_cookie(response, COOKIE, "")
        return response

    async def token(self, session: Session) -> str:
        """The access token, renewed shortly before its end.

        Raises:
            SignedOut: there is none any more.
            Unavailable: the identity provider does not answer, and the token has ended.
        """
        async with session.refreshing:  # a second use of a refresh token is taken for theft
            left = session.ends - self._clock.now()
            if left < _EARLY:
                try:
                    await self._renew(session)
                except (SessionOver, SignInRefused):
                    raise SignedOut from None
                except Unavailable:
                    if left <= 0:
                        raise
        return session.tokens.access_token

    async def _renew(self, session: Session) -> None:
        kept = session.tokens
        new = await self._provider.refresh(kept.refresh_token)
        id_token, refresh_token = new.id_token or kept.id_token, new.refresh_token or kept.refresh_token
        session.tokens = Tokens(new.access_token, id_token, refresh_token)


def _name(tokens: Tokens) -> str:
    """As the ID token says it, which was verified."""
    claims = jwt.decode(tokens.id_token, options={"verify_signature": False})
    return str(claims.get("preferred_username", ""))[:64]
