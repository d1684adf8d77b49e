"""The identity provider as a client and an administrator use it."""

from __future__ import annotations

import time
from typing import Any

import httpx
import jwt

from devstack.demo.caller import Token

_TIMEOUT = 10.0


class Provider:
    """Token and session calls against one realm; users' passwords equal their names in the demo realm."""

    def __init__(self, issuer: str, admin_token: str) -> None:
        self._endpoint = f"{issuer}/protocol/openid-connect"
        self._admin = issuer.replace("/realms/", "/admin/realms/")
        self._admin_token = admin_token

    def login(self, user: str, client: str = "web-app") -> Token:
        """A new session of a user."""
        return self._token(client, grant_type="password", username=user, password=user, scope="openid")

    def service(self, client: str) -> Token:
        """A service account: no user, no session. The demo realm's secrets are the client's name and `-secret`."""
        return self._token(client, grant_type="client_credentials", client_secret=f"{client}-secret")

    def refresh(self, token: Token) -> Token:
        """Another access token of the same session."""
        return self._token(token.client, grant_type="refresh_token", refresh_token=token.refresh_token)

    def logout(self, token: Token) -> int:
        """End the session at the provider, as a client does that knows the refresh token; the HTTP status."""
        data = {"client_id": token.client, "refresh_token": token.refresh_token}
        return httpx.post(f"{self._endpoint}/logout", data=data, timeout=_TIMEOUT).status_code

    def rotate_keys(self) -> None:
        """A new signing key; the old one stays published."""
        headers = {"authorization": f"Bearer {self._admin_token}"}
        httpx.post(f"{self._admin}/keys/rotate", headers=headers, timeout=_TIMEOUT).raise_for_status()

    def wait_until_expired(self, token: Token) -> None:
        """Seconds, by the token's own `exp`."""
        time.sleep(max(0.0, _claims(token)["exp"] - time.time()) + 0.1)

    def subject(self, token: Token) -> str:
        """`sub`: the user's id at the provider."""
        return str(_claims(token)["sub"])

    def session_of(self, token: Token) -> str:
        """`sid`."""
        return str(_claims(token)["sid"])

    def _token(self, client: str, **form: str) -> Token:
        answer = httpx.post(f"{self._endpoint}/token", data={"client_id": client, **form}, timeout=_TIMEOUT)
        answer.raise_for_status()
        body = answer.json()
        return Token(body["access_token"], client, body.get("id_token", ""), body.get("refresh_token", ""))


def _claims(token: Token) -> dict[str, Any]:
    """The tour got this token from the provider itself a moment ago: nothing hangs on its signature here."""
    return jwt.decode(token.text, options={"verify_signature": False})
