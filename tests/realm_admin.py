"""What an administrator does to the users of a realm, by Keycloak's admin REST API: also of the embedded realm.

Every change is by the service account of `realm-operator`, which the export of the development realm has.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable
from typing import Any, Self
from uuid import uuid4

import httpx

Json = dict[str, Any]

OPERATOR = ("realm-operator", "realm-operator-secret")
CONSOLE = ("tollgate-console", "tollgate-console-secret")
"""Clients of the export, with their secrets; the second may only read."""


class _Tokens(httpx.Auth):
    """Keeps a token as long as it works: tests change the clock, the keys and the not-before of a realm."""

    def __init__(self, token: Callable[[], str]) -> None:
        self._new = token
        self._token = ""

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        self._token = self._token or self._new()
        request.headers["Authorization"] = f"Bearer {self._token}"
        response = yield request
        if response.status_code == httpx.codes.UNAUTHORIZED:
            self._token = self._new()
            request.headers["Authorization"] = f"Bearer {self._token}"
            yield request


class RealmAdmin:
    """One client of the admin REST API. Users, clients, roles and groups are named, not numbered."""

    def __init__(self, base_url: str, realm: str = "tollgate", client: tuple[str, str] = OPERATOR) -> None:
        self._realm = f"{base_url}/realms/{realm}"
        self._client = client
        self.http = httpx.Client(base_url=f"{base_url}/admin/realms/{realm}", timeout=20, auth=_Tokens(self.token))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def token(self, scope: str = "") -> str:
        """A new one of the service account; `scope` such as `ssf.manage ssf.read`."""
        form = {"grant_type": "client_credentials", **({"scope": scope} if scope else {})}
        answer = httpx.post(f"{self._realm}/protocol/openid-connect/token", data=form, auth=self._client)
        return str(answer.raise_for_status().json()["access_token"])

    def get(self, path: str, **query: str | int) -> Any:  # noqa: ANN401  # JSON
        return self.http.get(path, params=query or None).raise_for_status().json()

    def user(self, *roles: str, groups: Iterable[str] = ()) -> str:
        """A new user with these roles of `triton-gateway` and a name that is its password too; the name."""
        name = f"u{uuid4().hex[:12]}"
        document = {
            "username": name,
            "enabled": True,
            "email": f"{name}@tollgate.example",
            "emailVerified": True,
            "firstName": "Test",
            "lastName": "User",
            "credentials": [{"type": "password", "value": name, "temporary": False}],
            "groups": [*groups],
        }
        self.http.post("/users", json=document).raise_for_status()
        for role in roles:
            self.add_client_role(name, role)
        return name

    def user_id(self, username: str) -> str:
        return str(self.get("/users", username=username, exact="true")[0]["id"])

    def change(self, username: str, **fields: object) -> None:
        """Such as `enabled=False`."""
        self.http.put(f"/users/{self.user_id(username)}", json=fields).raise_for_status()

    def delete(self, username: str) -> None:
        self.http.delete(f"/users/{self.user_id(username)}").raise_for_status()

    def reset_password(self, username: str, password: str) -> None:
        document = {"type": "password", "value": password, "temporary": False}
        self.http.put(f"/users/{self.user_id(username)}/reset-password", json=document).raise_for_status()

    def log_out(self, username: str) -> None:
        """All sessions of the user."""
        self.http.post(f"/users/{self.user_id(username)}/logout").raise_for_status()

    def end_session(self, sid: str) -> None:
        self.http.delete(f"/sessions/{sid}").raise_for_status()

    def add_client_role(self, username: str, role: str, client: str = "triton-gateway") -> None:
        self._client_roles("POST", username, role, client)

    def remove_client_role(self, username: str, role: str, client: str = "triton-gateway") -> None:
        self._client_roles("DELETE", username, role, client)

    def add_realm_role(self, username: str, role: str) -> None:
        self._realm_roles("POST", username, role)

    def remove_realm_role(self, username: str, role: str) -> None:
        self._realm_roles("DELETE", username, role)

    def join(self, username: str, group: str) -> None:
        self.http.put(f"/users/{self.user_id(username)}/groups/{self.group_id(group)}").raise_for_status()

    def leave(self, username: str, group: str) -> None:
        self.http.delete(f"/users/{self.user_id(username)}/groups/{self.group_id(group)}").raise_for_status()

    def group_id(self, path: str) -> str:
        return str(next(group["id"] for group in self.get("/groups") if group["path"] == path))

    def client_uuid(self, client_id: str) -> str:
        return str(self.get("/clients", clientId=client_id)[0]["id"])

    def change_client(self, client_id: str, *, attributes: dict[str, str] | None = None, **fields: object) -> None:
        """Attributes that are not named stay as they are."""
        client: Json = self.get("/clients", clientId=client_id)[0]
        document = {**client, **fields, "attributes": {**client["attributes"], **(attributes or {})}}
        self.http.put(f"/clients/{client['id']}", json=document).raise_for_status()

    def send_signals_to(self, origin: str, client_id: str = "tollgate-console") -> None:
        """Back-channel logout and admin callbacks go to `{origin}/tollgate/signals/...`."""
        signals = f"{origin}/tollgate/signals"
        self.change_client(
            client_id,
            adminUrl=signals,
            attributes={
                "backchannel.logout.url": f"{signals}/backchannel-logout",
                "backchannel.logout.session.required": "true",
            },
        )

    def push_not_before(self, not_before: int) -> Json:
        """Sets the realm's, and tells every client with an admin URL; the answer names who took it."""
        self.http.put("", json={"notBefore": not_before}).raise_for_status()
        return dict(self.http.post("/push-revocation").raise_for_status().json())

    def add_key(self) -> str:
        """A new one that signs from now on; the id of its component."""
        config = {"priority": [str(int(time.time()))], "enabled": ["true"], "active": ["true"], "keySize": ["2048"]}
        named = {"name": uuid4().hex, "providerId": "rsa-generated", "providerType": "org.keycloak.keys.KeyProvider"}
        answer = self.http.post("/components", json={**named, "config": config}).raise_for_status()
        return str(answer.headers["location"].rpartition("/")[2])

    def disable_key(self, component: str) -> None:
        """It is published no more."""
        document = self.get(f"/components/{component}")
        document["config"]["enabled"] = ["false"]
        self.http.put(f"/components/{component}", json=document).raise_for_status()

    def admin_events(self, **query: str | int) -> list[Json]:
        """Newest first."""
        return list(self.get("/admin-events", **query))

    def events(self, **query: str | int) -> list[Json]:
        """Newest first."""
        return list(self.get("/events", **query))

    def _client_roles(self, method: str, username: str, role: str, client: str) -> None:
        owner = self.client_uuid(client)
        named = self.get(f"/clients/{owner}/roles/{role}")
        path = f"/users/{self.user_id(username)}/role-mappings/clients/{owner}"
        self.http.request(method, path, json=[named]).raise_for_status()

    def _realm_roles(self, method: str, username: str, role: str) -> None:
        named = self.get(f"/roles/{role}")
        path = f"/users/{self.user_id(username)}/role-mappings/realm"
        self.http.request(method, path, json=[named]).raise_for_status()
