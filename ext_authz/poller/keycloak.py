"""A small client of Keycloak's admin REST API, with the service account of the console's client.

Answers are bounded in time and size, redirects are not followed. Every failure is one sentence for the log and /readyz
that says what to change at Keycloak; none holds a token or the secret. `admin_api.py` has what is asked.
"""

from __future__ import annotations

import asyncio
import math
import re
from base64 import urlsafe_b64decode
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

import httpx
import msgspec
from msgspec import Meta, Struct

from ext_authz.clock import Clock
from ext_authz.errors import ConfigError, Unavailable
from ext_authz.identity.fetch import LongBody, WrongBody, body_of
from ext_authz.identity.identity import printable
from ext_authz.policy.issuers import Issuer
from ext_authz.poller.metrics import POLL_REQUESTS

T = TypeVar("T")
Query = Mapping[str, str | int | tuple[str, ...]]

TIMEOUT = 5.0
"""Of every answer, in seconds."""
LARGEST = 8_388_608
"""Bytes of an answer. An administrator's event holds what was written, such as a whole client."""
LATEST = 2**32
"""Seconds since the epoch; later times are none."""
_MOST_SKEW = 3600.0
"""Seconds. With clocks that differ by more nothing can be said of when tokens were issued."""
_EARLY = 20.0
"""Seconds before its end at which a token is replaced."""

_KEY_SET = re.compile(r"(https?://[^?#]+)/realms/([^/?#]+)/protocol/openid-connect/certs")
_MISSING = re.compile(
    r"(user|group|client|role)\b.*\b(not found|does not exist)|could not find (user|group|client|role)\b.*", re.I
)
"""What Keycloak says with 404 of one of these. That of a proxy in front of it, or of a realm that is gone, says nothing
of a user, and who is not found loses every token."""
_RIGHTS = {"admin-events": "view-events", "events": "view-events", "clients": "view-clients", "": "view-realm"}
"""By the first word of a path: the role that it needs, if that is not view-users."""


class Skew:
    """How far Keycloak's clock is ahead of ours: what is known of it from the tokens that it has issued to us."""

    def __init__(self) -> None:
        self.least, self.most = -math.inf, math.inf

    def learn(self, issued_at: int, sent: float, received: float) -> None:
        """`issued_at`: whole seconds of its clock, of a moment between the two of ours."""
        least, most = issued_at - received, issued_at + 1 - sent
        if least > self.most or most < self.least:  # one of the clocks was set
            self.least, self.most = least, most
        self.least, self.most = max(self.least, least), min(self.most, most)

    @property
    def seconds(self) -> float:
        """Zero where that is possible: most clocks are right."""
        return min(max(0.0, self.least), self.most)

    def latest(self, ours: float) -> float:
        """What its clock shows at a moment of ours at the latest: whatever was issued before has no later `iat`.

        A second more than is likely, also where less would do: answers keep their order while more becomes known.
        """
        return ours + self.seconds + 1


class TooLong(Unavailable):
    """An answer of more than `LARGEST` bytes. Where a part can be asked for, that may be short enough."""


class _Token(Struct, frozen=True):
    access_token: Annotated[str, Meta(pattern=r"^[!-~]+\Z")]
    """What can be in a header: the message about what cannot would have it."""
    expires_in: int


def realm_of(issuer: Issuer) -> tuple[str, str]:
    """Where Keycloak is, and the name of its realm, from the key set: whoever fetches keys can reach it.

    Raises:
        ConfigError: the issuer is no realm of Keycloak.
    """
    found = _KEY_SET.fullmatch(issuer.jwks_url)
    if found is None:
        raise ConfigError(
            f"issuer {issuer.name}: its jwks_url is not .../realms/NAME/protocol/openid-connect/certs, so it is no "
            "realm of Keycloak, and what happens to its users is not polled"
        )
    return found[1], found[2]


class Keycloak:
    """`get` raises Unavailable("keycloak") with what to do: it does not answer, or not as it should."""

    def __init__(self, issuer: Issuer, client_id: str, secret: str, *, http: httpx.AsyncClient, clock: Clock) -> None:
        """Plain http only where the policy says so for the keys of this issuer. `http`: of `http_client`.

        Raises:
            ConfigError: as of `realm_of`.
        """
        url, self.realm = realm_of(issuer)
        self._token_url = f"{url}/realms/{self.realm}/protocol/openid-connect/token"
        self._base, self._client_id, self._secret = f"{url}/admin/realms/{self.realm}", client_id, secret
        self._clock = clock
        self._http = http
        self._token, self._token_ends = "", -math.inf
        self._renewing = asyncio.Lock()
        self.skew = Skew()

    async def close(self) -> None:
        await self._http.aclose()

    def now(self) -> float:
        """What its clock shows, as far as that is known."""
        return self._clock.now() + self.skew.seconds

    async def get(self, path: str, form: type[T], query: Query | None = None) -> T | None:
        """Below the realm's path, decoded; None where Keycloak says that there is no such thing."""
        for last in (False, True):
            headers = {"authorization": f"Bearer {await self._bearer()}"}
            url = f"{self._base}/{path}".rstrip("/")
            status, body = await self._ask("GET", url, headers=headers, params=query)
            if status == httpx.codes.UNAUTHORIZED and not last:
                self._token_ends = -math.inf  # it has other keys now, or has logged everybody out
                continue
            if status == httpx.codes.NOT_FOUND and _MISSING.fullmatch(_said(body)):
                return None
            if status != httpx.codes.OK:
                raise Unavailable("keycloak", self._refused(path, status, body), answers=True)
            return _decoded(body, form, _subject(path))
        raise AssertionError("the second answer is returned or raised")

    async def _bearer(self) -> str:
        async with self._renewing:
            if self._clock.monotonic() < self._token_ends:
                return self._token
            sent = self._clock.now()
            form = {"grant_type": "client_credentials", "client_id": self._client_id, "client_secret": self._secret}
            status, body = await self._ask("POST", self._token_url, data=form)
            if status != httpx.codes.OK:
                raise Unavailable("keycloak", self._no_token(status, body), answers=True)
            token = _decoded(body, _Token, "the token")
            self.skew.learn(_issued_at(token.access_token), sent, self._clock.now())
            if abs(self.skew.seconds) > _MOST_SKEW:
                raise Unavailable("keycloak", "its clock and ours differ by more than an hour: set them", answers=True)
            kept = max(token.expires_in / 2, token.expires_in - _EARLY)
            self._token, self._token_ends = token.access_token, self._clock.monotonic() + kept
            return self._token

    async def _ask(self, method: str, url: str, **options: Any) -> tuple[int, bytes]:  # noqa: ANN401 - httpx's
        POLL_REQUESTS.inc()
        try:
            async with asyncio.timeout(TIMEOUT), self._http.stream(method, url, **options) as response:
                return response.status_code, await body_of(response, LARGEST)
        except LongBody:
            raise TooLong("keycloak", f"an answer is longer than {LARGEST} bytes", answers=True) from None
        except WrongBody as wrong:
            raise Unavailable("keycloak", str(wrong), answers=True) from None
        except (TimeoutError, httpx.TimeoutException):
            raise Unavailable("keycloak", f"no complete answer within {TIMEOUT:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL) as failure:
            raise Unavailable("keycloak", f"{type(failure).__name__}: {printable(str(failure))}") from None

    def _no_token(self, status: int, body: bytes) -> str:
        if b"Realm not enabled" in body:
            return f"the realm {self.realm} is disabled"
        if status in (httpx.codes.BAD_REQUEST, httpx.codes.UNAUTHORIZED):
            return (
                f"it refuses the client {printable(self._client_id)}: set TOLLGATE_CONSOLE_CLIENT_SECRET to the secret "
                "of that client, and turn its service account on"
            )
        return f"status {status} in place of a token{_redirected(status)}"

    def _refused(self, path: str, status: int, body: bytes) -> str:
        what = _subject(path)
        if status == httpx.codes.NOT_FOUND and _said(body) == "Realm not found.":
            return f"it has no realm {self.realm}"
        if status == httpx.codes.FORBIDDEN:
            role = "view-clients" if "/clients/" in path else _RIGHTS.get(path.partition("/")[0], "view-users")
            who = f"the service account of {printable(self._client_id)}"
            return f"{who} may not read {what}: give it the role {role} of the client realm-management"
        if status == httpx.codes.UNAUTHORIZED:
            return "it refuses its own token: set its hostname, so that all its names have one issuer"
        return f"status {status} for {what}{_redirected(status)}"


def _said(body: bytes) -> str:
    """Why it refuses; empty where it does not say so as Keycloak does."""

    class Refusal(Struct):
        error: str

    try:
        return msgspec.json.decode(body, type=Refusal).error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ""


def _subject(path: str) -> str:
    return path.partition("/")[0] or "the realm"


def _redirected(status: int) -> str:
    is_redirect = httpx.codes.is_redirect(status)
    return ", a redirect, which is not followed: set jwks_url to the final URL" if is_redirect else ""


def _issued_at(token: str) -> int:
    """Of a token that came over the connection that the secret went over: its signature would say nothing more."""

    class Claims(Struct):
        iat: Annotated[int, Meta(ge=0, le=LATEST)]

    try:
        claims = token.split(".")[1]
        document = urlsafe_b64decode(claims + "=" * (-len(claims) % 4))
    except (IndexError, ValueError):
        document = b""
    return _decoded(document, Claims, "the token").iat


def _decoded(body: bytes, form: type[T], what: str) -> T:
    try:
        return msgspec.json.decode(body, type=form)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise Unavailable("keycloak", f"its answer about {what} is not as Keycloak answers", answers=True) from None
