"""What programs read in the part of Keycloak's admin REST API: users, groups, roles, clients, sessions and events."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from devstack.realm.admin import Admin, Caller
from devstack.realm.events import page
from devstack.realm.export import Group, User
from devstack.realm.representations import (
    Refused,
    answer,
    client_json,
    group_json,
    mappings_json,
    role_json,
    session_json,
    user_access,
    user_json,
)

_USERS, _CLIENTS = ("view-users", "manage-users"), ("view-clients", "manage-clients")
_EVENTS, _REALM = ("view-events", "manage-events"), ("view-realm", "manage-realm")


class Reading:
    """One method per kind of answer; the table at the beginning has the paths."""

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
        enabled = {client.client_id: client for client in self._realm.clients()}
        found = []
        for session in sessions.of_user(user.id):
            clients = [enabled[name] for name in sessions.clients_of(session.sid) if name in enabled]
            found.append(session_json(session, user.username, clients))
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
