"""The part of Keycloak's admin REST API that changes users, sessions and clients, each change with its admin event."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from functools import partial

from msgspec.structs import replace
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from devstack.realm.admin import Admin, Caller
from devstack.realm.export import Client, Credential, Group, User, client_mistakes
from devstack.realm.realm import RoleOf, default_role
from devstack.realm.representations import (
    Json,
    RealmChange,
    Refused,
    RoleNamed,
    UserChange,
    answer,
    group_json,
    read,
    role_json,
)

_USERS, _CLIENTS, _REALM = ("manage-users",), ("manage-clients",), ("manage-realm",)


class Changes:
    """One method per change; the table at the beginning has the paths."""

    def __init__(self, admin: Admin) -> None:
        self._admin = admin
        self._realm = admin.realm
        self._log = admin.log

    def routes(self) -> list[Route]:
        post, put, delete = (partial(self._admin.route, method) for method in ("POST", "PUT", "DELETE"))
        user, session = "/users/{user}", "/sessions/{session}"
        return [
            *(put(path, _REALM, self.change_realm) for path in ("", "/")),
            post("/push-revocation", _REALM, self.push_revocation),
            post("/logout-all", _REALM, self.log_everyone_out),
            post("/users", _USERS, self.create_user),
            put(user, _USERS, self.change_user),
            delete(user, _USERS, self.delete_user),
            put(f"{user}/reset-password", _USERS, self.reset_password),
            post(f"{user}/logout", _USERS, self.log_user_out),
            put(f"{user}/groups/{{group}}", _USERS, self.join),
            delete(f"{user}/groups/{{group}}", _USERS, self.leave),
            *self._role_routes("/users/{user}", self._admin.user),
            *self._role_routes("/groups/{group}", self._admin.group),
            delete(session, _USERS, self.end_session),
            put("/clients/{client}", _CLIENTS, self.change_client),
            post("/clients/{client}/push-revocation", _CLIENTS, self.push_client_revocation),
        ]

    async def create_user(self, request: Request, caller: Caller) -> Response:
        document, change = await read(request, UserChange)
        if not change.username:
            raise Refused(400, errorMessage="User name is missing")
        if self._realm.named(change.username):
            raise Refused(409, errorMessage="User exists with same username")
        given = change.given | {"groups": self._groups(change)}
        made = User(id=str(uuid.uuid4()), created_timestamp=self._admin.sessions.now() * 1000, **given)
        # As everyone who is not imported.
        made = replace(made, username=made.username.lower(), realm_roles=(default_role(self._realm.export),))
        self._realm.put_user(made)
        self._log.record_change("CREATE", "USER", f"users/{made.id}", by=caller.who, representation=_harmless(document))
        return Response(status_code=201, headers={"Location": f"{request.url.replace(query='')}/{made.id}"})

    async def change_user(self, request: Request, caller: Caller) -> Response:
        before = self._admin.user(request)
        document, change = await read(request, UserChange)
        given = change.given
        given.pop("groups", None)  # Keycloak takes them of new users only
        if given.pop("username", before.username).lower() != before.username.lower():
            raise Refused(400, field="username", errorMessage="error-user-attribute-read-only", params=["username"])
        self._realm.put_user(replace(before, **given))
        return self._done(caller, "UPDATE", "USER", _harmless(document))

    async def delete_user(self, request: Request, caller: Caller) -> Response:
        """Clients are not told, as in Keycloak."""
        user = self._admin.user(request)
        self._realm.remove_user(user.id)
        for session in self._admin.sessions.of_user(user.id):
            self._admin.sessions.end(session.sid)
        named = {"id": user.id, "username": user.username.lower()}
        return self._done(caller, "DELETE", "USER", named)

    async def reset_password(self, request: Request, caller: Caller) -> Response:
        """Sessions go on, as in Keycloak."""
        user = self._admin.user(request)
        _, credential = await read(request, Credential)
        if not credential.value:
            raise Refused(400, error="Empty password not allowed")
        self._realm.put_user(replace(user, credentials=(credential,)))
        return self._done(caller, "ACTION", "USER")

    async def log_user_out(self, request: Request, caller: Caller) -> Response:
        """Every session, and tokens that were issued before."""
        user = self._admin.user(request)
        self._realm.put_user(replace(user, not_before=self._admin.sessions.now()))
        for session in self._admin.sessions.of_user(user.id):
            await self._admin.signals.log_out(session.sid)
        return self._done(caller, "ACTION", "USER")

    async def end_session(self, request: Request, caller: Caller) -> Response:
        sid = request.path_params["session"]
        if self._admin.sessions.active(sid) is None:
            raise Refused(404, error="Sesssion not found")  # so Keycloak writes it
        await self._admin.signals.log_out(sid)
        return self._done(caller, "DELETE", "USER_SESSION", {"offline": False})

    async def join(self, request: Request, caller: Caller) -> Response:
        return self._membership(request, caller, "CREATE", lambda groups, path: (*groups, path))

    async def leave(self, request: Request, caller: Caller) -> Response:
        return self._membership(request, caller, "DELETE", lambda groups, _: groups)

    def _membership(
        self,
        request: Request,
        caller: Caller,
        operation: str,
        change: Callable[[tuple[str, ...], str], tuple[str, ...]],
    ) -> Response:
        """Nothing is recorded where nothing changes."""
        user, group = self._admin.user(request), self._admin.group(request)
        others = tuple(path for path in user.groups if path != group.path)
        after = replace(user, groups=change(others, group.path))
        if set(after.groups) == set(user.groups):
            return Response(status_code=204)
        self._realm.put_user(after)
        whose = {"username": user.username.lower(), **({"email": user.email} if user.email else {})}
        joined = group_json(group, whole=True, counted=False)
        return self._done(caller, operation, "GROUP_MEMBERSHIP", joined, details=whose)

    def _role_routes(self, path: str, holder: Callable[[Request], User | Group]) -> list[Route]:
        async def change(request: Request, caller: Caller) -> Response:
            found, owner = holder(request), ""
            if "client" in request.path_params:
                owner = self._admin.client(request).client_id
            roles = await self._named(request, owner)
            keep = self._realm.assigned(found)
            after = [role for role in keep if role not in roles]
            after += roles if request.method == "POST" else []
            self._assign(found, after)
            operation = "CREATE" if request.method == "POST" else "DELETE"
            resource = "CLIENT_ROLE_MAPPING" if owner else "REALM_ROLE_MAPPING"
            said = [role_json(self._realm, role, whole=True) for role in roles]
            return self._done(caller, operation, resource, said)

        where = [f"{path}/role-mappings/{end}" for end in ("realm", "clients/{client}")]
        methods = ("POST", "DELETE")
        return [self._admin.route(method, one, _USERS, change) for method in methods for one in where]

    async def _named(self, request: Request, owner: str) -> list[RoleOf]:
        _, named = await read(request, tuple[RoleNamed, ...])
        for role in named:
            known = (owner, role.name)
            if self._realm.role(known) is None or role.id not in ("", self._realm.role_id(known)):
                raise Refused(404, error="Role not found")
        return [(owner, role.name) for role in named]

    def _assign(self, holder: User | Group, roles: Iterable[RoleOf]) -> None:
        of_clients: dict[str, tuple[str, ...]] = {}
        for owner, name in roles:
            if owner:
                of_clients[owner] = (*of_clients.get(owner, ()), name)
        own = tuple(name for owner, name in roles if not owner)
        if isinstance(holder, User):
            self._realm.put_user(replace(holder, realm_roles=own, client_roles=of_clients))
        else:
            self._realm.put_group(replace(holder, realm_roles=own, client_roles=of_clients))

    async def change_client(self, request: Request, caller: Caller) -> Response:
        client = self._admin.client(request)
        document, changed = await read(request, Client)
        for mistake in client_mistakes(changed):
            raise Refused(400, errorMessage=mistake)
        self._realm.put_client(replace(changed, id=client.id, client_id=client.client_id))
        return self._done(caller, "UPDATE", "CLIENT", document)

    async def change_realm(self, request: Request, caller: Caller) -> Response:
        document, change = await read(request, RealmChange)
        if change.not_before is not None:
            self._realm.not_before = change.not_before
        return self._done(caller, "UPDATE", "REALM", document)

    async def push_revocation(self, request: Request, caller: Caller) -> Response:
        told = await self._admin.signals.push_not_before(self._realm.clients(), self._realm.not_before)
        self._done(caller, "ACTION", "REALM", told)
        return answer(told)

    async def push_client_revocation(self, request: Request, caller: Caller) -> Response:
        client = self._admin.client(request)
        told = await self._admin.signals.push_not_before([client], 0)
        self._done(caller, "ACTION", "CLIENT")
        return answer(told)

    async def log_everyone_out(self, request: Request, caller: Caller) -> Response:
        """Clients are told at their admin URL, not by back-channel logout, as in Keycloak."""
        self._realm.not_before = self._admin.sessions.now()
        self._admin.sessions.end_all()
        told = await self._admin.signals.log_everyone_out(self._realm.clients(), self._realm.not_before)
        self._done(caller, "ACTION", "REALM", told)
        return JSONResponse(told)

    def _done(
        self,
        caller: Caller,
        operation: str,
        resource: str,
        representation: object = None,
        *,
        details: Json | None = None,
    ) -> Response:
        """With the admin event of it."""
        self._log.record_change(
            operation, resource, caller.path, by=caller.who, representation=representation, details=details
        )
        return Response(status_code=204)

    def _groups(self, change: UserChange) -> tuple[str, ...]:
        known = {group.path for group in self._realm.groups()}
        for path in change.groups or ():
            if path not in known:
                raise Refused(404, error="Group not found")
        return change.groups or ()


def _harmless(document: Json) -> Json:
    """Without what a log must not have."""
    return {name: value for name, value in document.items() if name != "credentials"}
