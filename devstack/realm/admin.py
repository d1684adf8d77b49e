"""The part of Keycloak's admin REST API by which programs watch and change users: who may call it, and whom they name.

A caller shows an access token of this realm, as a service account gets one, and needs a role of `realm-management`.
What they read is in `admin_reads.py`, what they change in `admin_changes.py`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TypeVar

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from devstack.realm.events import EventLog
from devstack.realm.export import Client, Group, User
from devstack.realm.oauth import RealmServer
from devstack.realm.realm import MANAGEMENT, RoleOf
from devstack.realm.representations import Refused
from devstack.realm.signals import Signals

T = TypeVar("T", User, Group, Client)


class Caller(Struct, frozen=True):
    """Who calls, for the log and for what the answer shows."""

    client: Client
    user: User
    address: str
    may: frozenset[str]
    """Roles of `realm-management`."""
    path: str
    """Below the realm, as admin events have it."""

    @property
    def who(self) -> dict[str, str]:
        return {"clientId": self.client.id, "userId": self.user.id, "ipAddress": self.address}


Handler = Callable[[Request, Caller], Awaitable[Response]]


class Admin:
    """What reading and changing have in common: the caller, and whom a path names."""

    def __init__(self, server: RealmServer, signals: Signals, log: EventLog) -> None:
        self.server = server
        self.realm = server.realm
        self.sessions = server.sessions
        self.signals = signals
        self.log = log

    def route(self, method: str, path: str, needed: Sequence[str], handler: Handler) -> Route:
        """`needed`: one of these roles."""

        async def endpoint(request: Request) -> Response:
            try:
                return await handler(request, self._caller(request, needed))
            except Refused as refusal:
                return JSONResponse(refusal.body, refusal.status)

        return Route(f"/admin/realms/{self.realm.name}{path}", endpoint, methods=[method])

    def user(self, request: Request) -> User:
        return _one(request, "user", self.realm.all_users(), "User not found")

    def group(self, request: Request) -> Group:
        # Keycloak has a sentence for each place.
        sentence = "Group not found" if "user" in request.path_params else "Could not find group by id"
        return _one(request, "group", self.realm.groups(), sentence)

    def client(self, request: Request) -> Client:
        return _one(request, "client", self.realm.all_clients(), "Could not find client")

    def role(self, owner: str, name: str) -> RoleOf:
        if self.realm.role((owner, name)) is None:
            raise Refused(404, error="Could not find role")
        return (owner, name)

    def _caller(self, request: Request, needed: Sequence[str]) -> Caller:
        scheme, _, text = request.headers.get("authorization", "").partition(" ")
        token = self.server.tokens.read(text.strip()) if scheme.lower() == "bearer" else None
        if token is None or not token.active or token.kind != "Bearer":
            raise Refused(401, error="HTTP 401 Unauthorized")
        user = self.realm.known_user(str(token.claims["sub"]))
        client = self.realm.client(str(token.claims["azp"]))
        granted = token.claims.get("resource_access", {}).get(MANAGEMENT, {}).get("roles", [])
        # In the token, and still the user's.
        may = frozenset(granted).intersection(name for owner, name in self.realm.roles(user) if owner == MANAGEMENT)
        if client is None:
            raise Refused(401, error="HTTP 401 Unauthorized")
        if not may.intersection(needed):
            raise Refused(403, error="HTTP 403 Forbidden")
        path = request.url.path.partition(f"/admin/realms/{self.realm.name}/")[2]
        return Caller(client, user, request.client.host if request.client else "", may, path)


def _one(request: Request, kind: str, known: Iterable[T], sentence: str) -> T:
    found = next((each for each in known if each.id == request.path_params[kind]), None)
    if found is None:
        raise Refused(404, error=sentence)
    return found


async def nothing_there(request: Request) -> Response:
    """What this part of Keycloak's API does not have."""
    return JSONResponse({"error": "HTTP 404 Not Found"}, 404)
