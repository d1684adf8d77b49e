"""The part of Keycloak's admin REST API by which programs watch and change users: who may call it, and what they read.

A caller shows an access token of this realm, as a service account gets one, and needs a role of `realm-management`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from devstack.realm.events import EventLog, page
from devstack.realm.export import Client, Group, User
from devstack.realm.oauth import RealmServer
from devstack.realm.realm import MANAGEMENT, RoleOf
from devstack.realm.representations import (
    Refused,
    client_json,
    group_json,
    mappings_json,
    role_json,
    session_json,
    user_access,
    user_json,
)
from devstack.realm.signals import Signals

_NO_CACHE = {"Cache-Control": "no-cache"}
_USERS, _CLIENTS = ("view-users", "manage-users"), ("view-clients", "manage-clients")
_EVENTS, _REALM = ("view-events", "manage-events"), ("view-realm", "manage-realm")


class Caller(Struct, frozen=True):
    """Who calls, for the log and for what the answer shows."""

    client: Client
    user: User
    address: str
    may: frozenset[str]
    """Roles of `realm-management`."""

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
        found = {user.id: user for user in self.realm.all_users()}.get(request.path_params["user"])
        if found is None:
            raise Refused(404, error="User not found")
        return found

    def group(self, request: Request) -> Group:
        found = {group.id: group for group in self.realm.groups()}.get(request.path_params["group"])
        if found is None:
            # Keycloak has a sentence for each place.
            raise Refused(
                404, error="Group not found" if "user" in request.path_params else "Could not find group by id"
            )
        return found

    def client(self, request: Request) -> Client:
        found = {client.id: client for client in self.realm.all_clients()}.get(request.path_params["client"])
        if found is None:
            raise Refused(404, error="Could not find client")
        return found

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
        return Caller(client, user, request.client.host if request.client else "", may)


class Reading:
    """One method per kind of answer; the table at the end has the paths."""

    def __init__(self, admin: Admin) -> None:
        self._admin = admin
        self._realm = admin.realm

    def routes(self) -> list[Route]:
        get, user, group = partial(self._admin.route, "GET"), "/users/{user}", "/groups/{group}"
        return [
            *(get(path, _REALM, self.realm_itself) for path in ("", "/")),
            get("/users", (*_USERS, "query-users"), self.users),
            get("/users/count", _USERS, self.count),
            get(user, _USERS, self.user),
            get(f"{user}/groups", _USERS, self.groups_of_user),
            get(f"{user}/sessions", _USERS, self.sessions),
            *self._roles_of("user", user, self._admin.user),
            get("/groups", (*_USERS, "query-groups"), self.groups),
            get("/group-by-path/{path:path}", _USERS, self.group_at),
            get(group, _USERS, self.group),
            get(f"{group}/members", _USERS, self.members),
            *self._roles_of("group", group, self._admin.group),
            get("/clients", (*_CLIENTS, "query-clients"), self.clients),
            get("/clients/{client}", _CLIENTS, self.client),
            get("/clients/{client}/roles/{role}", _CLIENTS, self.client_role),
            get("/roles", _REALM, self.roles),
            get("/roles/{role}", _REALM, self.realm_role),
            get("/events", _EVENTS, self.events),
            get("/events/config", _EVENTS, self.recorded),
            get("/admin-events", _EVENTS, self.admin_events),
        ]

    def _roles_of(self, kind: str, path: str, holder: Callable[[Request], User | Group]) -> list[Route]:
        """Role mappings of a user or a group: assigned, and with what composite roles and groups bring along."""

        async def assigned(request: Request, caller: Caller) -> Response:
            document = mappings_json(self._realm, holder(request))
            if not caller.may.intersection(_CLIENTS):
                document.pop("clientMappings", None)
            return answer(document)

        async def listed(request: Request, caller: Caller) -> Response:
            found, is_composite = holder(request), request.url.path.endswith("/composite")
            owner = self._owner(request, caller)
            own = self._realm.assigned(found)
            roles = self._realm.effective(found) if is_composite else own
            return answer([role_json(self._realm, role) for role in roles if role[0] == owner])

        where = ("/realm", "/realm/composite", "/clients/{client}", "/clients/{client}/composite")
        route = partial(self._admin.route, "GET", needed=_USERS)
        mappings = f"{path}/role-mappings"
        return [route(mappings, handler=assigned), *(route(mappings + end, handler=listed) for end in where)]

    def _owner(self, request: Request, caller: Caller) -> str:
        if "client" not in request.path_params:
            return ""
        if not caller.may.intersection(_CLIENTS):
            raise Refused(403, error="HTTP 403 Forbidden")
        return self._admin.client(request).client_id

    async def realm_itself(self, request: Request, caller: Caller) -> Response:
        export = self._realm.export
        lifespans = {"accessTokenLifespan": export.access_token_lifespan, "notBefore": self._realm.not_before}
        return answer({"id": self._realm.id, "realm": self._realm.name, "enabled": True, **lifespans})

    async def users(self, request: Request, caller: Caller) -> Response:
        brief = request.query_params.get("briefRepresentation") == "true"
        access = {"access": {"manage": "manage-users" in caller.may}}
        found = [user_json(user, brief=brief) | access for user in self._found_users(request)]
        return answer(page(found, request.query_params))

    async def count(self, request: Request, caller: Caller) -> Response:
        return answer(len(self._found_users(request)))

    def _found_users(self, request: Request) -> list[User]:
        """By name. Service accounts are listed only for who asks for their names."""
        query = request.query_params
        username, exact = query.get("username", "").lower(), query.get("exact") == "true"
        words = query.get("search", "").lower().split()
        listed = (user for user in self._realm.all_users() if username or not user.service_account_client_id)
        users = [user for user in listed if _is_named(user, username, exact=exact)]
        users = [user for user in users if all(_matches(user, word) for word in words)]
        return sorted(users, key=lambda user: user.username.lower())

    async def user(self, request: Request, caller: Caller) -> Response:
        return answer(user_json(self._admin.user(request)) | user_access(manages="manage-users" in caller.may))

    async def groups_of_user(self, request: Request, caller: Caller) -> Response:
        groups = self._realm.groups_of(self._admin.user(request))
        return answer(page([group_json(group, counted=False) for group in groups], request.query_params))

    async def sessions(self, request: Request, caller: Caller) -> Response:
        user, sessions = self._admin.user(request), self._admin.sessions
        found = [
            session_json(session, user.username, self._known(sessions.clients_of(session.sid)))
            for session in sessions.of_user(user.id)
        ]
        return answer(found)

    async def groups(self, request: Request, caller: Caller) -> Response:
        whole = request.query_params.get("briefRepresentation") == "false"
        manages, asked = "manage-users" in caller.may, request.query_params.get("search", "").lower()
        found = [group for group in self._realm.groups() if asked in group.name.lower()]
        return answer(page([group_json(g, manages=manages, whole=whole) for g in found], request.query_params))

    async def group(self, request: Request, caller: Caller) -> Response:
        found = self._admin.group(request)
        return answer(group_json(found, manages="manage-users" in caller.may, whole=True))

    async def group_at(self, request: Request, caller: Caller) -> Response:
        path = f"/{request.path_params['path'].strip('/')}"
        found = {group.path: group for group in self._realm.groups()}.get(path)
        if found is None:
            raise Refused(404, error="Group path does not exist")
        return answer(group_json(found, whole=True))

    async def members(self, request: Request, caller: Caller) -> Response:
        path = self._admin.group(request).path
        found = sorted((u for u in self._realm.all_users() if path in u.groups), key=lambda user: user.username.lower())
        return answer(page([user_json(user) for user in found], request.query_params))

    async def clients(self, request: Request, caller: Caller) -> Response:
        manages, asked = "manage-clients" in caller.may, request.query_params.get("clientId")
        found = [c for c in self._realm.all_clients() if asked in (None, c.client_id)]
        shown = found if caller.may.intersection(_CLIENTS) else []
        return answer(page([client_json(client, manages=manages) for client in shown], request.query_params))

    async def client(self, request: Request, caller: Caller) -> Response:
        return answer(client_json(self._admin.client(request), manages="manage-clients" in caller.may))

    async def client_role(self, request: Request, caller: Caller) -> Response:
        role = self._admin.role(self._admin.client(request).client_id, request.path_params["role"])
        return answer(role_json(self._realm, role, whole=True))

    async def roles(self, request: Request, caller: Caller) -> Response:
        return answer([role_json(self._realm, role) for role in self._realm.roles_owned_by("")])

    async def realm_role(self, request: Request, caller: Caller) -> Response:
        return answer(role_json(self._realm, self._admin.role("", request.path_params["role"]), whole=True))

    async def events(self, request: Request, caller: Caller) -> Response:
        return answer(self._admin.log.events(request.query_params))

    async def admin_events(self, request: Request, caller: Caller) -> Response:
        return answer(self._admin.log.admin_events(request.query_params))

    async def recorded(self, request: Request, caller: Caller) -> Response:
        kinds = {"adminEventsEnabled": True, "adminEventsDetailsEnabled": True, "eventsEnabled": True}
        return answer(kinds)

    def _known(self, client_ids: Sequence[str]) -> list[Client]:
        return [client for name in client_ids if (client := self._realm.client(name))]


def _is_named(user: User, username: str, *, exact: bool) -> bool:
    return user.username.lower() == username if exact else username in user.username.lower()


def _matches(user: User, word: str) -> bool:
    """Keycloak's search: `"word"` is a whole name, `*word*` is anywhere in it, anything else is its beginning."""
    names = [name.lower() for name in (user.username, user.email, user.first_name, user.last_name)]
    if word.startswith('"'):
        return word.strip('"') in names
    if word.startswith("*"):
        return any(word.strip("*") in name for name in names)
    return any(name.startswith(word.strip("*")) for name in names)


async def nothing_there(request: Request) -> Response:
    """What this part of Keycloak's API does not have."""
    return JSONResponse({"error": "HTTP 404 Not Found"}, 404)


def answer(document: Any) -> Response:  # noqa: ANN401  # JSON
    return Response(msgspec.json.encode(document), media_type="application/json", headers=_NO_CACHE)
