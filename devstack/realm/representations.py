"""Users, roles, groups, clients and refusals as Keycloak's admin REST API writes them, and as administrators do."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from devstack.realm.export import Client, Credential, Group, Name, User
from devstack.realm.realm import Realm, RoleOf, direct_roles
from devstack.realm.sessions import Session

Json = dict[str, Any]
T = TypeVar("T")

_BODY_BYTES = 1 << 20
_NO_CACHE = {"Cache-Control": "no-cache"}

_ALWAYS = {
    "protocol": "openid-connect",
    "clientAuthenticatorType": "client-secret",
    "notBefore": 0,
    "alwaysDisplayInConsole": False,
    "authenticationFlowBindingOverrides": {},
    "consentRequired": False,
    "frontchannelLogout": False,
    "implicitFlowEnabled": False,
    "nodeReRegistrationTimeout": -1,
    "surrogateAuthRequired": False,
}
"""Of clients: what is the same for all of a development realm."""
_LEFT_OUT = ("name", "adminUrl", "secret", "protocolMappers")
"""Of clients, where they are empty."""
_GROUP_ACCESS = ("view", "viewMembers", "manageMembers", "manage", "manageMembership")
_USER_ACCESS = ("manageGroupMembership", "resetPassword", "view", "mapRoles", "impersonate", "manage")


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


class Refused(Exception):
    """An answer other than what was asked for; the body is Keycloak's."""

    def __init__(self, status: int, **body: str | list[str]) -> None:
        super().__init__(status)
        self.status = status
        self.body = body


def user_json(user: User, *, brief: bool = False) -> Json:
    """Empty names are left out."""
    named = {"firstName": user.first_name, "lastName": user.last_name, "email": user.email}
    state = {"emailVerified": user.email_verified, "enabled": user.enabled, "createdTimestamp": user.created_timestamp}
    rest = {"totp": False, "disableableCredentialTypes": [], "requiredActions": [], "notBefore": user.not_before}
    given = {name: value for name, value in named.items() if value}
    return {"id": user.id, "username": user.username.lower(), **given, **state, **({} if brief else rest)}


def user_access(*, manages: bool) -> Json:
    """Of one user: what the caller may do."""
    return {"access": {name: manages or name == "view" for name in _USER_ACCESS}}


def role_json(realm: Realm, role: RoleOf, *, whole: bool = False) -> Json:
    owner, name = role
    known = realm.role(role)
    assert known  # noqa: S101 - only roles of the realm come here
    client = realm.client(owner) if owner else None
    is_composite = bool(known.composites.realm or any(known.composites.client.values()))
    return {
        "id": realm.role_id(role),
        "name": name,
        **({"description": known.description} if known.description else {}),
        "composite": is_composite,
        "clientRole": bool(owner),
        "containerId": client.id if client else realm.id,
        **({"attributes": {}} if whole else {}),
    }


def mappings_json(realm: Realm, holder: User | Group) -> Json:
    """The roles that were assigned to a user or a group itself, by owner."""
    roles = [*direct_roles(holder)]
    own = [role_json(realm, role) for role in roles if not role[0]]
    owners = {owner: realm.client(owner) for owner, _ in roles if owner}
    of_clients = {
        owner: {"id": client.id, "client": owner, "mappings": _of(realm, roles, owner)}
        for owner, client in owners.items()
        if client
    }
    return {**({"realmMappings": own} if own else {}), **({"clientMappings": of_clients} if of_clients else {})}


def _of(realm: Realm, roles: Iterable[RoleOf], owner: str) -> list[Json]:
    return [role_json(realm, role) for role in roles if role[0] == owner]


def group_json(group: Group, *, manages: bool | None = None, whole: bool = False, counted: bool = True) -> Json:
    """`manages`: whether the caller may change it; None leaves that out."""
    roles = {"realmRoles": [*group.realm_roles], "clientRoles": {k: [*v] for k, v in group.client_roles.items()}}
    access = {name: bool(manages) or name in ("view", "viewMembers") for name in _GROUP_ACCESS}
    return {
        "id": group.id,
        "name": group.name,
        "path": group.path,
        **({"subGroupCount": len(group.sub_groups)} if counted else {}),
        "subGroups": [],
        **({"attributes": {}, **roles} if whole else {}),
        **({"access": access} if manages is not None else {}),
    }


def client_json(client: Client, *, manages: bool) -> Json:
    """With the secret, as Keycloak does for everyone who may view clients."""
    document: Json = msgspec.to_builtins(client)
    kept = {name: value for name, value in document.items() if value or name not in _LEFT_OUT}
    return {**kept, **_ALWAYS, "access": {"view": True, "configure": manages, "manage": manages}}


def session_json(session: Session, username: str, clients: Iterable[Client]) -> Json:
    """Times in milliseconds since the epoch."""
    return {
        "id": session.sid,
        "username": username,
        "userId": session.user_id,
        "ipAddress": "127.0.0.1",
        "start": session.started * 1000,
        "lastAccess": session.used * 1000,
        "rememberMe": False,
        "clients": {client.id: client.client_id for client in clients},
        "transientUser": False,
    }


def answer(document: Any) -> Response:  # noqa: ANN401  # JSON
    return Response(msgspec.json.encode(document), media_type="application/json", headers=_NO_CACHE)


async def read(request: Request, kind: type[T]) -> tuple[Json, T]:
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
