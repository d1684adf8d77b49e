"""Signing in at the identity provider: OpenID Connect's code flow with PKCE (RFC 7636), refreshing, signing out.

The protocol is Authlib's, the ID token's signature joserfc's. The access token is not read here: who gets it from here
has it verified like any caller's.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import httpx
import msgspec
from authlib.common.security import generate_token
from authlib.common.urls import add_params_to_uri
from authlib.oauth2.rfc6749.parameters import prepare_grant_uri
from authlib.oauth2.rfc7636 import create_s256_code_challenge
from authlib.oidc.core import CodeIDToken
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet
from msgspec import Struct

from ext_authz.clock import Clock
from ext_authz.errors import TollgateError, Unavailable
from ext_authz.identity.fetch import MAX_DOCUMENT, WrongBody, body_of
from ext_authz.identity.identity import printable
from ext_authz.policy.issuers import Issuer

SCOPE = "openid profile email"
_DISCOVERY = "/.well-known/openid-configuration"
_DISCOVERY_LASTS = 3600.0
TIMEOUT = 5.0
"""Seconds for a whole answer."""
_LEEWAY = 30
_SESSION_OVER = "invalid_grant"


class SignInRefused(TollgateError):
    """The identity provider, or what it sent, does not allow this sign-in; the message is for the person."""


class SessionOver(TollgateError):
    """The session at the identity provider has ended."""


class Discovery(Struct, frozen=True):
    """What we use of OpenID Connect Discovery 1.0 section 3."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    end_session_endpoint: str = ""
    authorization_response_iss_parameter_supported: bool = False


class Started(Struct, frozen=True):
    """A sign-in under way: stays with the browser that began it."""

    state: str
    nonce: str
    verifier: str
    next: str
    until: float
    """Seconds since the epoch."""


class Tokens(Struct, frozen=True):
    """The identity provider's answer (RFC 6749 section 5.1)."""

    access_token: str
    id_token: str = ""
    refresh_token: str = ""

    def __repr__(self) -> str:
        return "Tokens(***)"


class _Answer(Struct, frozen=True):
    status_code: int
    content: bytes


class IdentityProvider:
    """One issuer of the policy, as a client of it."""

    def __init__(
        self, issuer: Issuer, client_id: str, secret: str, *, redirect_uri: str, http: httpx.AsyncClient, clock: Clock
    ) -> None:
        """`http`: of `http_client`."""
        self.issuer = issuer
        self._client_id = client_id
        self._secret = secret
        self._redirect_uri = redirect_uri
        self._clock = clock
        self._http = http
        self._discovered: tuple[float, Discovery] | None = None

    async def close(self) -> None:
        await self._http.aclose()

    async def begin(self, following: str) -> tuple[str, Started]:
        """Where to send the browser, and what it has to bring back."""
        lasts = self._clock.now() + 600
        started = Started(generate_token(43), generate_token(43), generate_token(64), following, lasts)
        uri = prepare_grant_uri(
            (await self._discovery()).authorization_endpoint,
            client_id=self._client_id,
            response_type="code",
            redirect_uri=self._redirect_uri,
            scope=SCOPE,
            state=started.state,
            nonce=started.nonce,
            code_challenge=create_s256_code_challenge(started.verifier),  # type: ignore[no-untyped-call]
            code_challenge_method="S256",
        )
        return str(uri), started

    async def redeem(self, code: str, iss: str, started: Started) -> tuple[Tokens, str]:
        """The tokens, and the subject that the ID token names.

        Raises:
            SignInRefused, Unavailable: "issuer".
        """
        found = await self._discovery()
        if iss != found.issuer and (iss or found.authorization_response_iss_parameter_supported):
            raise SignInRefused("the answer came from another identity provider than the one that was asked (RFC 9207)")
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": self._redirect_uri}
        try:
            tokens = await self._token_request({**form, "code_verifier": started.verifier})
        except SessionOver:
            raise SignInRefused("the identity provider does not accept the code, it may be used already") from None
        return tokens, await self._subject(tokens, started.nonce)

    async def refresh(self, refresh_token: str) -> Tokens:
        """
        Raises:
            SessionOver, SignInRefused, Unavailable: "issuer".
        """
        return await self._token_request({"grant_type": "refresh_token", "refresh_token": refresh_token})

    async def signed_out_url(self, id_token: str, after: str) -> str:
        """Where the browser ends its session at the identity provider, which then sends it to `after` (OpenID Connect
        RP-Initiated Logout 1.0); `after` itself where there is no such address."""
        endpoint = (await self._discovery()).end_session_endpoint
        parameters = [("client_id", self._client_id), ("post_logout_redirect_uri", after), ("id_token_hint", id_token)]
        return str(add_params_to_uri(endpoint, parameters)) if endpoint else after

    async def _subject(self, tokens: Tokens, nonce: str) -> str:
        """OpenID Connect Core 1.0 section 3.1.3.7; the client's own clock and the policy's algorithms."""
        answer = await self._answer("GET", (await self._discovery()).jwks_uri)
        if answer.status_code != httpx.codes.OK:
            raise Unavailable("issuer", f"keys: status {answer.status_code}")
        try:
            keys = KeySet.import_key_set(json.loads(answer.content))
            decoded = jwt.decode(tokens.id_token, keys, sorted(self.issuer.algorithms))
            expected: dict[str, Any] = {"iss": {"value": self.issuer.issuer}, "aud": {"value": self._client_id}}
            known = {"nonce": nonce, "client_id": self._client_id, "access_token": tokens.access_token}
            claims = CodeIDToken(decoded.claims, decoded.header, expected, known)
            claims.validate(int(self._clock.now()), _LEEWAY)
        except (JoseError, ValueError, TypeError) as wrong:
            reason = printable(type(wrong).__name__)
            raise SignInRefused(f"the ID token of the identity provider is not valid ({reason})") from None
        return str(claims["sub"])

    async def _token_request(self, form: Mapping[str, str]) -> Tokens:
        url = (await self._discovery()).token_endpoint
        answer = await self._answer("POST", url, data=form, auth=(self._client_id, self._secret))
        document = _document(answer)
        if document.get("error") == _SESSION_OVER:
            raise SessionOver("the session at the identity provider has ended")
        if answer.status_code != httpx.codes.OK:
            code = printable(str(document.get("error", f"status {answer.status_code}")))
            raise SignInRefused(f"the identity provider refuses this client: {code}")
        try:
            return msgspec.convert(document, Tokens)
        except msgspec.ValidationError:
            raise Unavailable("issuer", "its answer holds no access token") from None

    async def _discovery(self) -> Discovery:
        """Kept for an hour, and beyond it while the identity provider does not answer."""
        kept = self._discovered
        if kept and self._clock.monotonic() < kept[0]:
            return kept[1]
        try:
            found = await self._discover()
        except Unavailable:
            if kept:
                return kept[1]
            raise
        self._discovered = self._clock.monotonic() + _DISCOVERY_LASTS, found
        return found

    async def _discover(self) -> Discovery:
        answer = await self._answer("GET", self.issuer.issuer + _DISCOVERY)
        try:
            found = msgspec.convert(_document(answer), Discovery)
        except msgspec.ValidationError as wrong:
            raise Unavailable("issuer", f"discovery, status {answer.status_code}: {wrong}") from None
        if found.issuer != self.issuer.issuer:
            raise Unavailable("issuer", f"discovery is that of {printable(found.issuer)}", answers=True)
        return found

    async def _answer(self, method: str, url: str, **options: Any) -> _Answer:  # noqa: ANN401 - httpx's
        headers = {"accept": "application/json"}
        try:
            async with asyncio.timeout(TIMEOUT), self._http.stream(method, url, headers=headers, **options) as response:
                answer = _Answer(response.status_code, await body_of(response, MAX_DOCUMENT))
        except WrongBody as wrong:
            raise Unavailable("issuer", str(wrong), answers=True) from None
        except (TimeoutError, httpx.TimeoutException):
            raise Unavailable("issuer", f"no complete answer within {TIMEOUT:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL) as failure:
            raise Unavailable("issuer", type(failure).__name__) from None
        if answer.status_code >= httpx.codes.INTERNAL_SERVER_ERROR:
            raise Unavailable("issuer", f"status {answer.status_code}")
        return answer


def _document(answer: _Answer) -> dict[str, Any]:
    """Empty for what is no JSON object."""
    try:
        return msgspec.json.decode(answer.content, type=dict[str, Any])
    except msgspec.DecodeError:
        return {}
