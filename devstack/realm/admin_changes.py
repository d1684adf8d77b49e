"""The part of Keycloak's admin REST API that changes users, sessions and clients, each change with its admin event."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import replace
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from devstack.realm.admin import Admin, Caller, answer
from devstack.realm.export import Client, Credential, Group, Name, User, client_mistakes
from devstack.realm.realm import RoleOf, default_role
from devstack.realm.representations import Json, Refused, group_json, role_json

_USERS, _CLIENTS, _REALM = ("manage-users",), ("manage-clients",), ("manage-realm",)
_BODY_BYTES = 1 << 20
_DONE = 204

T = TypeVar("T")


class UserChange(Struct, frozen=True, rename="camel"):
    """A user as an administrator writes it; None leaves a field as it is."""

    username: Name | None = None
    enabled: bool | None = None
    email: str | None = None
    email_verified: bool | None = None
    first_name: str | None = None
    last_name: str | None = None
    credentials: tuple[Credential, ...] | None = None
    groups: tuple[str, ...] | None = None
    not_before: int | None = None

    @property
    def given(self) -> dict[str, Any]:
        return {name: value for name in self.__struct_fields__ if (value := getattr(self, name)) is not None}


class RoleNamed(Struct, frozen=True):
    """A role in the body of a mapping."""

    name: str
    id: str = ""


class RealmChange(Struct, frozen=True, rename="camel"):
    not_before: int | None = None


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
        document, change = await _read(request, UserChange)
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
        document, change = await _read(request, UserChange)
        given = change.given
        given.pop("groups", None)  # Keycloak takes them of new users only
        if given.pop("username", before.username).lower() != before.username.lower():
            raise Refused(400, field="username", errorMessage="error-user-attribute-read-only", params=["username"])
        self._realm.put_user(replace(before, **given))
        path = f"users/{before.id}"
        self._log.record_change("UPDATE", "USER", path, by=caller.who, representation=_harmless(document))
        return Response(status_code=_DONE)

    async def delete_user(self, request: Request, caller: Caller) -> Response:
        """Clients are not told, as in Keycloak."""
        user = self._admin.user(request)
        self._realm.remove_user(user.id)
        for session in self._admin.sessions.of_user(user.id):
            self._admin.sessions.end(session.sid)
        named = {"id": user.id, "username": user.username.lower()}
        self._log.record_change("DELETE", "USER", f"users/{user.id}", by=caller.who, representation=named)
        return Response(status_code=_DONE)

    async def reset_password(self, request: Request, caller: Caller) -> Response:
        """Sessions go on, as in Keycloak."""
        user = self._admin.user(request)
        _, credential = await _read(request, Credential)
        if not credential.value:
            raise Refused(400, error="Empty password not allowed")
        self._realm.put_user(replace(user, credentials=(credential,)))
        self._log.record_change("ACTION", "USER", f"users/{user.id}/reset-password", by=caller.who)
        return Response(status_code=_DONE)

    async def log_user_out(self, request: Request, caller: Caller) -> Response:
        """Every session, and tokens that were issued before."""
        user = self._admin.user(request)
        self._realm.put_user(replace(user, not_before=self._admin.sessions.now()))
        for session in self._admin.sessions.of_user(user.id):
            await self._admin.signals.log_out(session.sid)
        self._log.record_change("ACTION", "USER", f"users/{user.id}/logout", by=caller.who)
        return Response(status_code=_DONE)

    async def end_session(self, request: Request, caller: Caller) -> Response:
        sid = request.path_params["session"]
        if self._admin.sessions.active(sid) is None:
            raise Refused(404, error="Sesssion not found")  # so Keycloak writes it
        await self._admin.signals.log_out(sid)
        said = {"offline": False}
        self._log.record_change("DELETE", "USER_SESSION", f"sessions/{sid}", by=caller.who, representation=said)
        return Response(status_code=_DONE)

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
        if set(after.groups) != set(user.groups):
            self._realm.put_user(after)
            self._log.record_change(
                operation,
                "GROUP_MEMBERSHIP",
                f"users/{user.id}/groups/{group.id}",
                by=caller.who,
                representation=group_json(group, whole=True, counted=False),
                details={"username": user.username.lower(), **({"email": user.email} if user.email else {})},
            )
        return Response(status_code=_DONE)

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
            self._record_roles(request, caller, owner, roles)
            return Response(status_code=_DONE)

        where = [f"{path}/role-mappings/{end}" for end in ("realm", "clients/{client}")]
        methods = ("POST", "DELETE")
        return [self._admin.route(method, one, _USERS, change) for method in methods for one in where]

    def _record_roles(self, request: Request, caller: Caller, owner: str, roles: Iterable[RoleOf]) -> None:
        self._log.record_change(
            "CREATE" if request.method == "POST" else "DELETE",
            "CLIENT_ROLE_MAPPING" if owner else "REALM_ROLE_MAPPING",
            request.url.path.partition(f"/admin/realms/{self._realm.name}/")[2],
            by=caller.who,
            representation=[role_json(self._realm, role, whole=True) for role in roles],
        )

    async def _named(self, request: Request, owner: str) -> list[RoleOf]:
        _, named = await _read(request, tuple[RoleNamed, ...])
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
        document, changed = await _read(request, Client)
        for mistake in client_mistakes(changed):
            raise Refused(400, errorMessage=mistake)
        self._realm.put_client(replace(changed, id=client.id, client_id=client.client_id))
        path = f"clients/{client.id}"
        self._log.record_change("UPDATE", "CLIENT", path, by=caller.who, representation=document)
        return Response(status_code=_DONE)

    async def change_realm(self, request: Request, caller: Caller) -> Response:
        document, change = await _read(request, RealmChange)
        if change.not_before is not None:
            self._realm.not_before = change.not_before
        self._log.record_change("UPDATE", "REALM", "", by=caller.who, representation=document)
        return Response(status_code=_DONE)

    async def push_revocation(self, request: Request, caller: Caller) -> Response:
        told = await self._admin.signals.push_not_before(self._realm.clients(), self._realm.not_before)
        self._log.record_change("ACTION", "REALM", "push-revocation", by=caller.who, representation=told)
        return answer(told)

    async def push_client_revocation(self, request: Request, caller: Caller) -> Response:
        client = self._admin.client(request)
        told = await self._admin.signals.push_not_before([client], 0)
        self._log.record_change("ACTION", "CLIENT", f"clients/{client.id}/push-revocation", by=caller.who)
        return answer(told)

    async def log_everyone_out(self, request: Request, caller: Caller) -> Response:
        """Clients are told at their admin URL, not by back-channel logout, as in Keycloak."""
        self._realm.not_before = self._admin.sessions.now()
        self._admin.sessions.end_all()
        told = await self._admin.signals.log_everyone_out(self._realm.clients(), self._realm.not_before)
        self._log.record_change("ACTION", "REALM", "logout-all", by=caller.who, representation=told)
        return JSONResponse(told)

    def _groups(self, change: UserChange) -> tuple[str, ...]:
        known = {group.path for group in self._realm.groups()}
        for path in change.groups or ():
            if path not in known:
                raise Refused(404, error="Group not found")
        return change.groups or ()


def _harmless(document: Json) -> Json:
    """Without what a log must not have."""
    return {name: value for name, value in document.items() if name != "credentials"}


async def _read(request: Request, kind: type[T]) -> tuple[Json, T]:
    """The body as it came, and as what it means."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > _BODY_BYTES:
            raise Refused(413, error="HTTP 413 Request Entity Too Large")
    try:
        return msgspec.json.decode(body), msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, RecursionError):
        raise Refused(400, error="invalid_request", error_description="Cannot parse the JSON") from None
