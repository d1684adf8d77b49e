"""Calls of models that the console makes for whoever is signed in: through the door, as everybody's calls go.

So permission, quota, experiment, ledger and decision are those of any call. The credential is a token for this person,
this model and this minute (`tokens/momentary.py`).
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from http.cookiejar import DefaultCookiePolicy
from typing import Any
from urllib.parse import urlsplit

import httpx
import msgspec
from msgspec import Struct

from ext_authz.console.frame import Visit
from ext_authz.console.model_inputs import decoded
from ext_authz.identity.fetch import WrongBody, body_of
from ext_authz.identity.identity import printable
from ext_authz.tokens.service import TokenService

TIMEOUT = 10.0
"""Seconds for a whole answer."""
MOST_BYTES = 1 << 20
"""Of an answer."""
_MOST_AT_ONCE = 2
"""Calls of one person that this process waits for."""
_LONGEST = 600
_QUOTA = re.compile(r'"([^"]{1,255})"((?:;[a-z]+=[0-9]{1,19})+)(?=\s*(?:,|$))')


class Left(Struct, frozen=True):
    """One limit after a call (draft-ietf-httpapi-ratelimit-headers)."""

    name: str
    remaining: int
    limit: int
    """0: not said."""
    reset: int
    """Seconds until all is restored."""


class Answer(Struct, frozen=True):
    """What came back, or that nothing did."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    milliseconds: float

    @property
    def allowed(self) -> bool:
        return self.status == HTTPStatus.OK

    @property
    def decision_id(self) -> str:
        return self._text("x-decision-id") or self._said("decision_id")

    @property
    def version(self) -> str:
        """As the experiment says, or the model server."""
        return self._text("x-model-version") or self._said("model_version")

    @property
    def variant(self) -> str:
        return self._text("x-model-variant")

    @property
    def code(self) -> str:
        return self._said("code")

    @property
    def detail(self) -> str:
        """The sentence of a refusal."""
        return self._said("detail") or self._said("error")

    @property
    def retry_after(self) -> int:
        """Seconds; 0: not said."""
        said = self._text("retry-after")
        return int(said) if re.fullmatch(r"[0-9]{1,9}", said, re.ASCII) else 0

    @property
    def quotas(self) -> tuple[Left, ...]:
        limits = {name: values.get("q", 0) for name, values in _quotas(self._text("ratelimit-policy"))}
        return tuple(
            Left(name, values.get("r", 0), limits.get(name, 0), values.get("t", 0))
            for name, values in _quotas(self._text("ratelimit"))
        )

    def _text(self, header: str) -> str:
        return printable(self.headers.get(header, ""), 2000)

    def _said(self, member: str) -> str:
        found = decoded(self.body, dict[str, Any]) or {}
        said = found.get(member, "")
        return printable(said, _LONGEST) if isinstance(said, str) else ""


class Door:
    """Where models are called."""

    def __init__(self, url: str, public: str, http: httpx.AsyncClient, service: TokenService) -> None:
        """`url`: an origin, which is asked for the host of the origin `public`, as everybody asks. `http`: of
        `http_client`."""
        self._url = url
        self._host = urlsplit(public).netloc
        self._http = http
        # One client for all people: it must keep nothing of one for another.
        http.cookies.jar.set_policy(DefaultCookiePolicy(allowed_domains=()))
        self._service = service
        self._running: dict[tuple[str, str], int] = {}

    async def close(self) -> None:
        await self._http.aclose()

    async def token(self, visit: Visit, model: str) -> str:
        """Raises NotDone, Unavailable."""
        session = f"console-{visit.visitor.session.id.hex()[:32]}"
        return await self._service.for_one_call(visit.person, model, session)

    async def describe(self, token: str, model: str) -> tuple[Answer, Answer]:
        """Metadata and configuration, each of which the caller may be refused."""
        metadata, config = await asyncio.gather(
            self._ask(token, "GET", f"/v2/models/{model}"), self._ask(token, "GET", f"/v2/models/{model}/config")
        )
        return metadata, config

    async def infer(self, visit: Visit, token: str, path: str, body: object) -> Answer:
        with self._one_more(visit.actor.issuer, visit.actor.subject) as few:
            if not few:
                detail = "other calls of yours have not been answered yet: wait for them"
                return _without_answer(HTTPStatus.TOO_MANY_REQUESTS, detail)
            return await self._ask(token, "POST", path, msgspec.json.encode(body))

    @contextmanager
    def _one_more(self, *who: str) -> Iterator[bool]:
        """Whether there are few enough: a slow model must not take all connections for one person."""
        key = who[0], who[1]
        running = self._running.get(key, 0)
        self._running[key] = running + 1
        try:
            yield running < _MOST_AT_ONCE
        finally:
            self._running[key] -= 1
            if not self._running[key]:
                del self._running[key]

    async def _ask(self, token: str, method: str, path: str, body: bytes = b"") -> Answer:
        headers = {"accept": "application/json", "authorization": f"Bearer {token}", "host": self._host}
        headers |= {"content-type": "application/json"} if body else {}
        sent = {"headers": headers, "content": body or None}
        began = time.perf_counter()
        try:
            async with (
                asyncio.timeout(TIMEOUT),
                self._http.stream(method, self._url + path, **sent) as response,  # type: ignore[arg-type]
            ):
                content = await body_of(response, MOST_BYTES)
        except WrongBody:
            return _without_answer(HTTPStatus.BAD_GATEWAY, f"the answer has more than {MOST_BYTES >> 20} MB")
        except (TimeoutError, httpx.TimeoutException):
            return _without_answer(HTTPStatus.GATEWAY_TIMEOUT, f"no answer came within {TIMEOUT:g} seconds")
        except (httpx.HTTPError, httpx.InvalidURL) as failure:
            return _without_answer(
                HTTPStatus.SERVICE_UNAVAILABLE, f"the console cannot reach models ({_name(failure)})"
            )
        return Answer(response.status_code, response.headers, content, (time.perf_counter() - began) * 1000)


def _name(failure: Exception) -> str:
    return type(failure).__name__


def _without_answer(status: int, detail: str) -> Answer:
    return Answer(status, {}, msgspec.json.encode({"detail": detail}), 0)


def _quotas(header: str) -> Iterator[tuple[str, dict[str, int]]]:
    for name, parameters in _QUOTA.findall(header):
        pairs = (part.partition("=") for part in parameters.split(";") if part)
        yield name, {key: int(value) for key, _, value in pairs}
