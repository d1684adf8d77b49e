"""What the realm tells its clients by itself: back-channel logout, and the callbacks below a client's admin URL.

As in Keycloak: sent once, while the caller who caused it waits, and never again.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Iterable, Mapping

import httpx

from devstack.realm.export import Client
from devstack.realm.keys import KeyRing
from devstack.realm.realm import Realm
from devstack.realm.sessions import Session, Sessions

_EVENT = "http://schemas.openid.net/event/backchannel-logout"
_LOGOUT_TOKEN_SECONDS = 120
_ACTION_SECONDS = 30
_PATIENCE = 5.0
_TAKEN = (200, 204)
_TEXT = {"Content-Type": "text/plain; charset=ISO-8859-1"}

logger = logging.getLogger("devstack.realm.signals")


class Signals:
    """Ends sessions, and sends what follows from it."""

    def __init__(self, realm: Realm, keys: KeyRing, sessions: Sessions, issuer: str) -> None:
        self._realm = realm
        self._keys = keys
        self._sessions = sessions
        self._issuer = issuer

    async def log_out(self, sid: str) -> None:
        """End a session, and tell every client in it that has a back-channel logout URL."""
        session, clients = self._sessions.active(sid), self._sessions.clients_of(sid)
        self._sessions.end(sid)
        if session:
            known = [client for name in clients if (client := self._realm.client(name))]
            await self._post((client, *self._logout(client, session)) for client in known if _logout_url(client))

    async def push_not_before(self, clients: Iterable[Client], not_before: int) -> dict[str, list[str]]:
        """Which admin URLs took it, and which failed."""
        return await self._act(clients, "k_push_not_before", "PUSH_NOT_BEFORE", not_before)

    async def log_everyone_out(self, clients: Iterable[Client], not_before: int) -> dict[str, list[str]]:
        return await self._act(clients, "k_logout", "LOGOUT", not_before)

    def _logout(self, client: Client, session: Session) -> tuple[str, Mapping[str, str], str]:
        now = self._sessions.now()
        revoke_offline = client.attributes.get("backchannel.logout.revoke.offline.tokens") == "true"
        claims = {
            "exp": now + _LOGOUT_TOKEN_SECONDS,
            "iat": now,
            "jti": str(uuid.uuid4()),
            "iss": self._issuer,
            "aud": client.client_id,
            "sub": session.user_id,
            "typ": "Logout",
            **({"sid": session.sid} if client.attributes.get("backchannel.logout.session.required") == "true" else {}),
            "events": {_EVENT: {}, **({"revoke_offline_access": True} if revoke_offline else {})},
        }
        form = httpx.QueryParams({"logout_token": self._keys.sign(claims, typ="logout+jwt")})
        return _logout_url(client), {"Content-Type": "application/x-www-form-urlencoded"}, str(form)

    async def _act(self, clients: Iterable[Client], path: str, action: str, not_before: int) -> dict[str, list[str]]:
        told = [client for client in clients if client.admin_url]
        taken = await self._post(
            (client, f"{client.admin_url.rstrip('/')}/{path}", _TEXT, self._action(client, action, not_before))
            for client in told
        )
        good = [client.admin_url for client, is_taken in zip(told, taken, strict=True) if is_taken]
        bad = [client.admin_url for client, is_taken in zip(told, taken, strict=True) if not is_taken]
        return {**({"successRequests": good} if good else {}), **({"failedRequests": bad} if bad else {})}

    def _action(self, client: Client, action: str, not_before: int) -> str:
        now = self._sessions.now()
        named = {"id": f"{uuid.uuid4()}-{now * 1000}", "expiration": now + _ACTION_SECONDS}
        return self._keys.sign({**named, "resource": client.client_id, "action": action, "notBefore": not_before})

    async def _post(self, messages: Iterable[tuple[Client, str, Mapping[str, str], str]]) -> list[bool]:
        # Never through a proxy: the clients are on this machine.
        async with httpx.AsyncClient(timeout=_PATIENCE, trust_env=False) as http:
            return await asyncio.gather(*(_is_taken(http, *message) for message in messages))


async def _is_taken(http: httpx.AsyncClient, client: Client, url: str, headers: Mapping[str, str], body: str) -> bool:
    """A failure is logged without the token, and nothing else happens."""
    try:
        status = (await http.post(url, content=body, headers=headers)).status_code
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        logger.warning("client %s was not told: %s does not answer (%s)", client.client_id, url, type(error).__name__)
        return False
    if status not in _TAKEN:
        logger.warning("client %s was not told: %s answered %d", client.client_id, url, status)
    return status in _TAKEN


def _logout_url(client: Client) -> str:
    return client.attributes.get("backchannel.logout.url", "")
