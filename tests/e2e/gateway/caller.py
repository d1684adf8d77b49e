"""Calls through Envoy over REST, on a route that takes a role but has no limit."""

from __future__ import annotations

from typing import Self

import httpx
import jwt

from devstack.demo.participants import Operator
from devstack.stack.stack import Stack

PATIENCE = 3.0
"""Seconds. No answer may take longer, whatever is down: every wait in a check is shorter."""


class Caller:
    """alice, with the role `infer`."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._http = httpx.Client(base_url=stack.addresses.envoy, timeout=PATIENCE)
        self.operator = Operator(stack.addresses.database_url, stack.addresses.redis_url, "demo")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def token(self, user: str = "alice") -> str:
        """A new session."""
        form = {"grant_type": "password", "client_id": "web-app", "username": user, "password": user}
        where = f"{self._stack.addresses.issuer}/protocol/openid-connect/token"
        return str(httpx.post(where, data=form).raise_for_status().json()["access_token"])

    def ready(self, token: str | None = None) -> httpx.Response:
        """GET /v2/models/sentiment/ready."""
        headers = {"authorization": f"Bearer {token}"} if token else {}
        return self._http.get("/v2/models/sentiment/ready", headers=headers)

    def is_allowed(self, token: str) -> bool:
        return self.ready(token).status_code == httpx.codes.OK

    def is_ready(self) -> bool:
        """The authorizer's /readyz."""
        return self._succeeds("readyz")

    def is_live(self) -> bool:
        """The authorizer's /livez."""
        return self._succeeds("livez")

    def dependency(self, name: str) -> bool:
        """Whether a dependency answers, as of the authorizer's /readyz."""
        answer = httpx.get(f"{self._stack.addresses.admin}/readyz", timeout=PATIENCE).json()
        return bool(answer.get("dependencies", {}).get(name, False))

    def _succeeds(self, path: str) -> bool:
        try:
            return httpx.get(f"{self._stack.addresses.admin}/{path}", timeout=PATIENCE).is_success
        except httpx.TransportError:
            return False


def session_of(token: str) -> str:
    return str(jwt.decode(token, options={"verify_signature": False})["sid"])
