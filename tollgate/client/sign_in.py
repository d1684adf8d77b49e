"""How a token is got, renewed and kept: client credentials (RFC 6749 section 4.4) or a device (RFC 8628), at the issuer
that the models' address names (RFC 9728).
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import secrets
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx
from msgspec import Struct

from tollgate.client.errors import SignInFailed
from tollgate.client.steps import Flow, Pause, Tell

RESOURCE_METADATA = "/.well-known/oauth-protected-resource"
DEVICE_CODE = "urn:ietf:params:oauth:grant-type:device_code"
_EARLY = 30.0
"""Seconds before its end at which a token is renewed; at most a fifth of its life."""
_LONGEST = 500
"""Characters of a text of the identity provider."""
_INTERVAL, _SLOWER = 5.0, 5.0
"""Seconds between polls where the issuer says nothing, and more for each `slow_down` (RFC 8628 section 3.5)."""

Documents = Mapping[str, Any]


class Prompt(Struct, frozen=True):
    """What a person has to do: open `address` in any browser and compare, or enter, `code`."""

    address: str
    code: str
    expires_in: float
    """Seconds."""


def print_prompt(prompt: Prompt) -> None:
    """To standard error."""
    sys.stderr.write(f"To sign in, open {prompt.address} and confirm the code {prompt.code}\n")


@dataclass(frozen=True, kw_only=True)
class ClientCredentials:
    """A program with a client of its own at the identity provider."""

    client_id: str
    client_secret: str = field(repr=False)
    scope: str = ""

    def sign_in(self, issuer: Documents) -> Flow[Documents]:
        form = {"grant_type": "client_credentials"} | ({"scope": self.scope} if self.scope else {})
        return (yield from granted(issuer, form, self.client_id, self.client_secret))


@dataclass(frozen=True, kw_only=True)
class Device:
    """A person, who confirms in a browser, on this machine or another."""

    client_id: str
    client_secret: str = field(default="", repr=False)
    """Empty for a public client."""
    scope: str = "openid"
    prompt: Callable[[Prompt], object] = print_prompt
    """May be a coroutine function with `AsyncClient`."""

    def sign_in(self, issuer: Documents) -> Flow[Documents]:
        endpoint = _member(issuer, "device_authorization_endpoint", "the identity provider has no sign-in by device")
        verifier = secrets.token_urlsafe(32)
        wanted = {"scope": self.scope, "code_challenge": _challenge(verifier), "code_challenge_method": "S256"}
        answer = yield _form(endpoint, wanted, self.client_id, self.client_secret)
        asked = _granted(answer, "device_code")
        expires_in = _seconds(asked.get("expires_in"), 600.0)
        address = asked.get("verification_uri_complete") or asked.get("verification_uri")
        prompt = Prompt(_printable(address), _printable(asked.get("user_code")), expires_in)
        yield Tell(lambda: self.prompt(prompt))
        form = {"grant_type": DEVICE_CODE, "device_code": str(asked["device_code"]), "code_verifier": verifier}
        interval, left = _seconds(asked.get("interval"), _INTERVAL), expires_in
        while left > 0:
            yield Pause(interval)
            left -= interval
            try:
                return (yield from granted(issuer, form, self.client_id, self.client_secret))
            except SignInFailed as failure:
                if failure.code not in ("authorization_pending", "slow_down"):
                    raise
                interval += _SLOWER if failure.code == "slow_down" else 0
        raise SignInFailed("expired_token", "nobody confirmed the code in time")


SignIn = ClientCredentials | Device


class Tokens:
    """The token of one client: what is held, and how there is a next one."""

    def __init__(
        self, sign_in: SignIn | str, origin: str, issuer: str, now: Callable[[], float] = time.monotonic
    ) -> None:
        """`sign_in`: or a token, which is used as it is. `origin`: of the models. `issuer`: the only one to sign in at;
        empty: that which the models' address names."""
        self._sign_in = sign_in
        self._origin = origin
        self._issuer = issuer
        self._now = now
        self._held = sign_in if isinstance(sign_in, str) else ""
        self._refresh = ""
        self._renew_at = float("inf") if self._held else 0.0
        self._documents: Documents | None = None

    @property
    def can_renew(self) -> bool:
        return not isinstance(self._sign_in, str)

    def fresh(self, refused: str) -> str:
        """The one that is held; empty where a new one is due."""
        return "" if self._held == refused or self._now() >= self._renew_at else self._held

    def renewed(self) -> Flow[str]:
        """A new one.

        Raises:
            SignInFailed
        """
        if isinstance(self._sign_in, str):
            raise SignInFailed("token_refused", "the token was not accepted, and there is no way to get another")
        if self._documents is None:
            self._documents = yield from _discovered(self._origin, self._issuer)
        began = self._now()
        found = (yield from self._refreshed(self._sign_in, self._documents)) if self._refresh else None
        found = found or (yield from self._sign_in.sign_in(self._documents))
        lifetime = _seconds(found.get("expires_in"), 60.0)
        if isinstance(self._sign_in, Device):
            began = self._now()  # somebody took their time
        self._renew_at = began + lifetime - min(_EARLY, lifetime / 5)
        self._held, self._refresh = str(found["access_token"]), str(found.get("refresh_token", self._refresh))
        return self._held

    def _refreshed(self, sign_in: SignIn, issuer: Documents) -> Flow[Documents | None]:
        """None: the session is over, and somebody has to sign in again."""
        form = {"grant_type": "refresh_token", "refresh_token": self._refresh}
        try:
            return (yield from granted(issuer, form, sign_in.client_id, sign_in.client_secret))
        except SignInFailed as failure:
            if failure.code != "invalid_grant":
                raise
            self._refresh = ""
            return None


def _discovered(origin: str, pinned: str) -> Flow[Documents]:
    """The document of the issuer (OpenID Connect Discovery section 4)."""
    issuer = pinned
    if not issuer:
        resource = _document((yield httpx.Request("GET", origin + RESOURCE_METADATA)), "the models' address")
        if resource.get("resource") != origin:  # RFC 9728 section 3.3
            raise SignInFailed("wrong_resource", f"{origin} says that it is another resource: name its issuer yourself")
        servers = resource.get("authorization_servers")
        if not (isinstance(servers, list) and servers and isinstance(servers[0], str)):
            raise SignInFailed("no_issuer", f"{origin} names no identity provider: name its issuer yourself")
        issuer = servers[0]
    _ensure_private(issuer)
    found = _document(
        (yield httpx.Request("GET", issuer.rstrip("/") + "/.well-known/openid-configuration")), "the identity provider"
    )
    if found.get("issuer") != issuer:
        raise SignInFailed("wrong_issuer", f"{issuer} says that it is another issuer")
    return found


def granted(issuer: Documents, form: Mapping[str, str], client_id: str, client_secret: str) -> Flow[Documents]:
    """The answer of the token's endpoint.

    Raises:
        SignInFailed
    """
    endpoint = _member(issuer, "token_endpoint", "the identity provider names no endpoint for tokens")
    return _granted((yield _form(endpoint, form, client_id, client_secret)), "access_token")


def _form(url: str, form: Mapping[str, str], client_id: str, client_secret: str) -> httpx.Request:
    """A public client names itself in the form (RFC 6749 section 2.3.1)."""
    _ensure_private(url)
    if not client_secret:
        return httpx.Request("POST", url, data={**form, "client_id": client_id})
    request = httpx.Request("POST", url, data=dict(form))
    return next(httpx.BasicAuth(client_id, client_secret).auth_flow(request))


def _granted(response: httpx.Response, needed: str) -> Documents:
    said = _object(response)
    if response.is_success and isinstance(said.get(needed), str):
        return said
    code = said.get("error")
    if isinstance(code, str) and not response.is_success:
        raise SignInFailed(_printable(code), _printable(said.get("error_description")))
    raise SignInFailed("no_answer", f"the identity provider answered {response.status_code} without {needed}")


def _document(response: httpx.Response, whose: str) -> Documents:
    found = _object(response)
    if not (response.is_success and found):
        raise SignInFailed("no_metadata", f"{whose} has no metadata at {response.request.url}: {response.status_code}")
    return found


def _object(response: httpx.Response) -> Documents:
    try:
        found = response.json()
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _member(issuer: Documents, name: str, otherwise: str) -> str:
    found = issuer.get(name)
    if not isinstance(found, str):
        raise SignInFailed("not_supported", otherwise)
    return found


def _ensure_private(url: str) -> None:
    """Secrets go over TLS, or do not leave the machine."""
    where = urlsplit(url)
    if where.scheme == "https" or (where.scheme == "http" and _is_loopback(where.hostname or "")):
        return
    raise SignInFailed("not_private", f"{url} is neither https nor on this machine: no secret is sent there")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _printable(value: object) -> str:
    """What a terminal may show of a text from elsewhere."""
    return "".join(filter(str.isprintable, value[:_LONGEST])) if isinstance(value, str) else ""


def _challenge(verifier: str) -> str:
    """RFC 7636 section 4.2: Keycloak asks for it here too, of clients that must use it."""
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()


def _seconds(value: object, otherwise: float) -> float:
    return float(value) if isinstance(value, int | float) and value > 0 else otherwise
