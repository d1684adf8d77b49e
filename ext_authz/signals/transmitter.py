"""The transmitter of security events of a Keycloak realm, as its receiver calls it (SSF 1.0 section 8, RFC 8936).

Every URL is in the realm: an answer that names another one gets no token of ours.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import httpx
import msgspec
from msgspec import Struct

from ext_authz.errors import TollgateError, Unavailable
from ext_authz.identity.fetch import WrongBody, body_of
from ext_authz.identity.identity import printable
from ext_authz.policy.issuers import Issuer
from ext_authz.signals.messages import REQUESTED
from ext_authz.signals.stream import Stream

MOST = 50
"""Events of one poll."""
_LONGEST = 2_000_000
"""Bytes of an answer: 50 events are some 100 kB."""
_PATIENCE = 10.0
"""Seconds for an answer."""
_SCOPES = "ssf.manage ssf.read"
_EARLY = 30
"""Seconds before it expires, a token of ours is replaced."""
_PUSH, _POLL = "urn:ietf:rfc:8935", "urn:ietf:rfc:8936"
_NO_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_CERTS = "/protocol/openid-connect/certs"


class StreamGone(TollgateError):
    """The transmitter does not know this stream any more."""


class Polled(Struct, frozen=True, rename="camel"):
    """RFC 8936 section 2.3; unknown members are ignored."""

    sets: Mapping[str, str] = {}
    more_available: bool = False


class _Refused(Exception):
    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(status)
        self.status = status
        self.body = body


class Transmitter:
    """Raises Unavailable("ssf") with what to do, where it does not answer or does not let us."""

    def __init__(self, issuer: Issuer, client_id: str, secret: str, http: httpx.AsyncClient) -> None:
        self.issuer = issuer
        # From here it may have another address than for the users, whose tokens have it as `iss`.
        self._realm = issuer.jwks_url.removesuffix(_CERTS) if issuer.jwks_url.endswith(_CERTS) else issuer.issuer
        self._client = client_id, secret
        self._http = http
        self._token, self._token_until = "", 0.0
        self._endpoints: Mapping[str, Any] = {}

    async def streams(self) -> list[Stream]:
        """Of our client: Keycloak allows one."""
        found = await self._ask("GET", await self._endpoint("configuration_endpoint"))
        return [self._stream(each) for each in (found if isinstance(found, list) else [found])]

    async def create(self, push: str = "", authorization: str = "") -> Stream:
        """`push`: where events are sent to, with this header; empty: they are asked for."""
        delivery: dict[str, str] = {"method": _PUSH if push else _POLL}
        if push:
            delivery |= {"endpoint_url": push, "authorization_header": authorization}
        wanted = {"delivery": delivery, "events_requested": REQUESTED, "description": "Tollgate"}
        return self._stream(await self._ask("POST", await self._endpoint("configuration_endpoint"), wanted))

    async def delete(self, stream_id: str) -> None:
        """Nothing where it is gone."""
        try:
            await self._ask("DELETE", f"{await self._endpoint('configuration_endpoint')}?stream_id={stream_id}")
        except StreamGone:
            return

    async def status(self, stream_id: str) -> str:
        """enabled, paused or disabled."""
        answer = await self._ask("GET", f"{await self._endpoint('status_endpoint')}?stream_id={stream_id}")
        return printable(str(answer.get("status", "unknown") if isinstance(answer, dict) else "unknown"))

    async def verify(self, stream_id: str, state: str) -> None:
        """Have it send a verification event."""
        await self._ask("POST", await self._endpoint("verification_endpoint"), {"stream_id": stream_id, "state": state})

    async def poll(self, stream: Stream, ack: list[str], errors: Mapping[str, Mapping[str, str]]) -> Polled:
        """What was not acknowledged yet; at once, also where there is nothing.

        Raises:
            StreamGone
        """
        wanted: dict[str, object] = {"maxEvents": MOST, "returnImmediately": True, "ack": ack}
        if errors:
            wanted["setErrs"] = errors
        answer = await self._ask("POST", self._reached(stream.endpoint), wanted)
        try:
            return msgspec.convert(answer, Polled)
        except msgspec.ValidationError:
            raise self._unavailable("its answer is no answer of RFC 8936") from None

    def _stream(self, document: Any) -> Stream:  # noqa: ANN401 - JSON
        try:
            delivery, audience = document["delivery"], document["aud"]
            names = (audience,) if isinstance(audience, str) else tuple(map(str, audience))
            push = str(delivery["endpoint_url"]) if delivery["method"] == _PUSH else ""
            endpoint = "" if push else str(delivery["endpoint_url"])
            return Stream(
                issuer=self.issuer.name, id=str(document["stream_id"]), audience=names, push=push, endpoint=endpoint
            )
        except (KeyError, TypeError):
            raise self._unavailable("its answer describes no stream") from None

    async def _endpoint(self, name: str) -> str:
        if not self._endpoints:
            try:
                found = await self._answer("GET", f"{self._realm}/.well-known/ssf-configuration", {}, None)
            except _Refused as refusal:
                raise self._unavailable(f"no metadata: {_why(refusal)}") from None
            if not isinstance(found, dict) or found.get("issuer") != self.issuer.issuer:
                raise self._unavailable("its metadata name another issuer than the policy")
            self._endpoints = found
        return self._reached(str(self._endpoints.get(name, "")))

    def _reached(self, url: str) -> str:
        for base in (self.issuer.issuer, self._realm):
            if url.startswith(f"{base}/"):
                return self._realm + url.removeprefix(base)
        raise self._unavailable("it names an endpoint that is not in the realm")

    async def _ask(self, method: str, url: str, body: object = None) -> Any:  # noqa: ANN401 - JSON
        """With a token; one that was valid and is not any more (not-before, new keys) is replaced once."""
        try:
            return await self._answer(method, url, await self._authorization(), body)
        except _Refused as refusal:
            if refusal.status == httpx.codes.NOT_FOUND:
                raise StreamGone(f"{self.issuer.name} knows no such stream of security events (status 404)") from None
            if refusal.status != httpx.codes.UNAUTHORIZED:
                raise self._unavailable(_why(refusal)) from None
            self._token_until = 0
        try:
            return await self._answer(method, url, await self._authorization(), body)
        except _Refused as refusal:
            raise self._unavailable(_why(refusal)) from None

    async def _authorization(self) -> dict[str, str]:
        if time.monotonic() >= self._token_until:
            client_id, secret = self._client
            form = {"grant_type": "client_credentials", "client_id": client_id, "client_secret": secret}
            url = f"{self._realm}/protocol/openid-connect/token"
            try:
                answer = await self._answer("POST", url, {}, None, {**form, "scope": _SCOPES})
                self._token = str(answer["access_token"])
                self._token_until = time.monotonic() + float(answer.get("expires_in", 0)) - _EARLY
            except _Refused as refusal:
                raise self._unavailable(f"no token for {client_id}: {_why(refusal)}") from None
            except (KeyError, TypeError, ValueError):
                raise self._unavailable("its token endpoint answers without a token") from None
        return {"Authorization": f"Bearer {self._token}"}

    async def _answer(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: object,
        form: Mapping[str, str] | None = None,
    ) -> Any:  # noqa: ANN401 - JSON
        try:
            # From the first byte that is sent to the last that comes: httpx alone limits the pauses in between.
            async with (
                asyncio.timeout(_PATIENCE),
                self._http.stream(method, url, headers=headers, json=body, data=form) as response,
            ):
                content = await body_of(response, _LONGEST)
        except WrongBody as wrong:
            raise self._unavailable(str(wrong)) from None
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, ValueError) as failure:
            raise self._unavailable(f"no answer ({type(failure).__name__})") from None
        if not response.is_success:
            raise _Refused(response.status_code, content)
        try:
            return msgspec.json.decode(content) if content else None
        except _NO_JSON:
            raise self._unavailable("its answer is no JSON") from None

    def _unavailable(self, why: str) -> Unavailable:
        return Unavailable("ssf", f"the transmitter of security events of {self.issuer.name}: {why}")


def _why(refusal: _Refused) -> str:
    """With what to do: Keycloak says little."""
    try:
        answer = msgspec.json.decode(refusal.body)
        said = str(answer.get("error_description") or answer.get("error") or "")
    except (*_NO_JSON, AttributeError):
        said = ""
    hints = {
        401: "the client needs the optional scopes ssf.manage and ssf.read, and its attribute ssf.enabled",
        404: "switch the feature ssf on, and the realm's attribute ssf.transmitterEnabled",
        409: "the client has a stream already",
    }
    return ": ".join(filter(None, [f"status {refusal.status}", printable(said), hints.get(refusal.status, "")]))
