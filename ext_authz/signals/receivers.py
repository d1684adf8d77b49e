"""Where identity providers send signals to, below `/tollgate/signals`. Each request is signed; nobody else is believed.

backchannel-logout                   OpenID Connect Back-Channel Logout 1.0, section 2.5
k_logout, k_push_not_before          Keycloak appends these to the admin URL of a client
ISSUER/k_logout, ...                 the same of another issuer than the one that people sign in at: they name none
events                               push of security events (RFC 8935), if the stream was set up so
"""

from __future__ import annotations

import hmac
import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from hashlib import sha256
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ext_authz.clock import Clock
from ext_authz.decision import Reason
from ext_authz.errors import Denied, Unavailable
from ext_authz.identity.messages import MAX_MESSAGE, SignedMessages
from ext_authz.policy.issuers import Issuer
from ext_authz.signals import messages as read
from ext_authz.signals.metrics import SIGNALS, UNREAD
from ext_authz.signals.obedience import Obedience
from ext_authz.signals.stream import Streams

log = logging.getLogger(__name__)

PATH = "/tollgate/signals"
MAX_BODY = MAX_MESSAGE + 1024
_NO_STORE = {"Cache-Control": "no-store"}
_RETRY = {**_NO_STORE, "Retry-After": "1"}
_FORM, _EVENT = "application/x-www-form-urlencoded", "application/secevent+jwt"
_ERRORS = {
    "issuer_unknown": "invalid_issuer",
    "audience_mismatch": "invalid_audience",
    "key_unknown": "invalid_key",
    "authorization": "authentication_failed",
}
"""RFC 8935 section 2.4, of the codes of refusals; others are `invalid_request`."""

Receive = Callable[[Request], Awaitable[None]]


class Receivers:
    """The endpoints. Whatever is answered with 200 or 202 is in force on every replica."""

    def __init__(
        self,
        messages: SignedMessages,
        obedience: Obedience,
        streams: Streams,
        clients: Mapping[str, frozenset[str]],
        issuers: Mapping[str, Issuer],
        *,
        console: tuple[str, str],
        clock: Clock,
        address: Callable[[Request], str],
    ) -> None:
        """`clients`: whose signals are accepted, by the name of their issuer, as `issuers` are. `console`: the issuer
        that people sign in at, and the console's client there. `address`: of who sent a request."""
        self._messages = messages
        self._obedience = obedience
        self._streams = streams
        self._clients = clients
        self._issuers = issuers
        self._console = console
        self._clock = clock
        self._address = address

    def routes(self) -> list[Route]:
        """Of the console's application."""
        actions = {"k_logout": read.LOGOUT, "k_push_not_before": read.PUSH_NOT_BEFORE}
        endpoints: list[tuple[str, Callable[[Request], Awaitable[Response]]]] = [
            ("backchannel-logout", partial(_answered, "logout", self._logout)),
            ("events", partial(_pushed, self._event)),
        ]
        for name, action in actions.items():
            endpoint = partial(_answered, name, partial(self._action, action))
            endpoints += [(name, endpoint), (f"{{issuer}}/{name}", endpoint)]
        return [Route(f"{PATH}/{path}", _as_function(endpoint), methods=["POST"]) for path, endpoint in endpoints]

    async def _logout(self, request: Request) -> None:
        text = _logout_token(await _body(request, _FORM))
        message = await self._messages.read(text, read.LOGOUT_TYPES)
        signal = read.logout(message, self._clients.get(message.issuer.name, ()), self._clock.now())
        await self._obedience.obey(signal, address=self._address(request), repeats=False)

    async def _action(self, action: str, request: Request) -> None:
        issuer = self._issuers.get(request.path_params.get("issuer", self._console[0]))
        if issuer is None:
            raise _refused("issuer_unknown", "the path names no issuer of the policy")
        text = await _body(request, "text/plain")
        message = await self._messages.read(text.strip(), read.ACTION_TYPES, issuer.issuer)
        console = self._console[1] if issuer.name == self._console[0] else ""
        signal = read.admin_action(message, action, self._clients[issuer.name], console, self._clock.now())
        await self._obedience.obey(signal, address=self._address(request), repeats=False)

    async def _event(self, request: Request) -> None:
        stream = await self._streams.pushed()
        given = sha256("\n".join(request.headers.getlist("authorization")).encode()).hexdigest()
        if stream is None or not hmac.compare_digest(given, stream.authorization):
            raise _refused("authorization", "the header Authorization is not the one that the stream was set up with")
        message = await self._messages.read(await _body(request, _EVENT), read.EVENT_TYPES)
        signal = read.security_event(message, stream.audience, self._clock.now())
        if signal.issuer != stream.issuer:
            raise _refused("issuer_unknown", "the stream belongs to another issuer")
        await self._obedience.obey(signal, address=self._address(request))


class _TooLong(Exception):
    """A body that nobody reads to its end."""


async def _answered(kind: str, receive: Receive, request: Request) -> Response:
    """Section 2.8: 200, or 400 with a reason. 503 where we cannot say yet; Keycloak repeats nothing, others may."""
    try:
        await receive(request)
    except Denied as refusal:
        _count(kind, refusal)
        return _error(400, refusal)
    except _TooLong:
        return _error(413, _count(kind, _refused("body_too_long", f"the body is longer than {MAX_BODY} bytes")))
    except Unavailable as outage:
        return _unavailable(kind, outage)
    return Response(status_code=200, headers=_NO_STORE)


async def _pushed(receive: Receive, request: Request) -> Response:
    """RFC 8935 sections 2.2 to 2.4."""
    try:
        await receive(request)
    except Denied as refusal:
        _count(UNREAD, refusal)
        err = _ERRORS.get(refusal.code, "invalid_request")
        status = 401 if refusal.code == "authorization" else 400
        return JSONResponse({"err": err, "description": refusal.detail}, status, _NO_STORE)
    except _TooLong:
        _count(UNREAD, _refused("body_too_long", "too long"))
        return JSONResponse({"err": "invalid_request", "description": "the body is too long"}, 413, _NO_STORE)
    except Unavailable as outage:
        return _unavailable(UNREAD, outage)
    return Response(status_code=202, headers=_NO_STORE)


def _as_function(endpoint: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    """Starlette calls a `partial` as an ASGI application."""

    async def answer(request: Request) -> Response:
        return await endpoint(request)

    return answer


def _error(status: int, refusal: Denied) -> Response:
    return JSONResponse({"error": "invalid_request", "error_description": refusal.detail}, status, _NO_STORE)


def _unavailable(kind: str, outage: Unavailable) -> Response:
    log.error("signal not confirmed", extra={"kind": kind, "dependency": outage.dependency, "error": outage.detail})
    what = f"{outage.dependency} does not answer; what postgres holds comes into force when redis answers"
    return JSONResponse({"error": "temporarily_unavailable", "error_description": what}, 503, _RETRY)


def _count(kind: str, refusal: Denied) -> Denied:
    SIGNALS.labels(kind, "refused").inc()
    log.warning("signal refused", extra={"kind": kind, "code": refusal.code, "detail": refusal.detail})
    return refusal


async def _body(request: Request, media_type: str) -> str:
    """In ASCII, as the messages are."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != media_type:
        raise _refused("content_type", f"the content type must be {media_type}")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise _TooLong
    try:
        return body.decode("ascii")
    except UnicodeDecodeError:
        raise _refused("body_malformed", "the body must be ASCII") from None


def _logout_token(form: str) -> str:
    """Other parameters are ignored (section 2.5)."""
    try:
        fields = parse_qsl(form, keep_blank_values=True, strict_parsing=True, max_num_fields=16)
    except ValueError:
        fields = []
    tokens = [value for name, value in fields if name == "logout_token"]
    if len(tokens) != 1:
        raise _refused("body_malformed", "the body must be a form with one logout_token")
    return tokens[0]


def _refused(code: str, detail: str) -> Denied:
    return Denied(Reason.INVALID_CREDENTIAL, code, detail)
