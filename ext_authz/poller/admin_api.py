"""What is asked of Keycloak about a realm: its events, its users and groups with their roles in effect, its clients.

The rights are roles of the client `realm-management`: view-users, view-events, view-realm and view-clients.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal
from urllib.parse import quote

from msgspec import Meta, Struct

from ext_authz.errors import Unavailable
from ext_authz.identity.identity import printable
from ext_authz.policy.issuers import ClaimPath
from ext_authz.poller.keycloak import LATEST, Keycloak, Query

Stream = Literal["admin-events", "events"]

PAGE = 100
"""Events asked for at a time."""
NotBefore = Annotated[int, Meta(le=LATEST)]
"""Seconds; an administrator may have written any number, also one below zero."""


class Event(Struct, frozen=True, rename="camel"):
    """One event of either kind; what a kind does not have is empty."""

    time: Annotated[int, Meta(ge=0, le=LATEST * 1000)]
    """Milliseconds of Keycloak's clock."""
    id: str = ""
    operation_type: str = ""
    resource_type: str = ""
    resource_path: str = ""
    representation: str = ""
    """What was written, as JSON, if the realm keeps it."""
    type: str = ""
    user_id: str = ""
    session_id: str = ""
    details: dict[str, str | None] = {}


class User(Struct, frozen=True, rename="camel"):
    enabled: bool
    not_before: NotBefore = 0
    """Seconds: an administrator has ended everything from before."""


class Switch(Struct, frozen=True, rename="camel"):
    """A realm, or a client."""

    enabled: bool
    not_before: NotBefore = 0
    client_id: str = ""


class Recorded(Struct, frozen=True, rename="camel"):
    """Which events a realm keeps."""

    admin_events_enabled: bool = False
    events_enabled: bool = False


class _Role(Struct, frozen=True):
    name: str


class _Group(Struct, frozen=True, rename="camel"):
    id: str
    path: str
    parent_id: str = ""


class _Client(Struct, frozen=True, rename="camel"):
    id: str
    client_id: str


def client_of(path: ClaimPath) -> str | None:
    """The client whose roles a claim has; empty for those of the realm; None: nobody can be asked for it."""
    match path:
        case ("realm_access", "roles"):
            return ""
        case ("resource_access", client, "roles"):
            return client
    return None


class AdminApi:
    """Raises Unavailable("keycloak") with what to do; what is not there is None."""

    def __init__(self, keycloak: Keycloak) -> None:
        self.keycloak = keycloak
        self._clients: dict[str, str] = {}
        """Ids by name; empty: it was there, and is not any more."""

    async def events(
        self, stream: Stream, *, since: int, skip: int = 0, types: tuple[str, ...] = (), most: int = PAGE
    ) -> list[Event]:
        """The oldest first, from this millisecond on; `types`: only these, of users' events."""
        query: Query = {"dateFrom": max(since, 0), "direction": "asc", "first": skip, "max": most, "type": types}
        found = await self.keycloak.get(stream, list[Event], query)
        if found is None:
            raise Unavailable("keycloak", f"it says that there are no {stream}", answers=True)
        if any(earlier.time > later.time for earlier, later in pairwise(found)):
            raise Unavailable("keycloak", f"{stream} are not in order: version 26 or newer is needed", answers=True)
        return found

    async def recorded(self) -> Recorded | None:
        return await self.keycloak.get("events/config", Recorded)

    async def user(self, subject: str) -> User | None:
        return await self.keycloak.get(f"users/{quoted(subject)}", User)

    async def groups(self, subject: str) -> frozenset[str]:
        """The paths of those that a user is in."""
        found = await self.keycloak.get(f"users/{quoted(subject)}/groups", list[_Group])
        return frozenset(group.path for group in found or ())

    async def group(self, path: str) -> list[str]:
        """The ids of a group and of its parents, whose roles its members have too; empty: there is no such group."""
        steps = "/".join(quoted(step) for step in path.strip("/").split("/"))
        found, ids = await self.keycloak.get(f"group-by-path/{steps}", _Group), list[str]()
        while found is not None and found.id not in ids:
            ids.append(found.id)
            parent = found.parent_id
            found = await self.keycloak.get(f"groups/{quoted(parent)}", _Group) if parent else None
        return ids

    async def roles(self, whose: str, client: str) -> frozenset[str]:
        """In effect, also by composite roles; of a user, by groups and their parents too. `whose`: users/ID or
        groups/ID; `client`: as of `client_of`."""
        if not client:
            found = await self.keycloak.get(f"{whose}/role-mappings/realm/composite", list[_Role])
            return frozenset(role.name for role in found or ())
        while uuid := self._clients.get(client) or await self._uuid(client):
            found = await self.keycloak.get(f"{whose}/role-mappings/clients/{uuid}/composite", list[_Role])
            if found is not None or await self._uuid(client) == uuid:
                return frozenset(role.name for role in found or ())
        return frozenset()

    async def realm(self) -> Switch | None:
        return await self.keycloak.get("", Switch)

    async def client(self, uuid: str) -> Switch | None:
        return await self.keycloak.get(f"clients/{quoted(uuid)}", Switch)

    async def _uuid(self, client: str) -> str:
        """Empty: it is no longer there. Of one that never was, nobody can tell whether only the right is missing."""
        found = await self.keycloak.get("clients", list[_Client], {"clientId": client})
        uuid = next((quoted(each.id) for each in found or () if each.client_id == client), "")
        if not uuid and client not in self._clients:
            shown = f"it shows no client {printable(client)}, whose roles the policy reads"
            right = "give the service account the role view-clients of the client realm-management"
            raise Unavailable("keycloak", f"{shown}: {right}, or correct the name in the policy", answers=True)
        self._clients[client] = uuid
        return uuid


def quoted(step: str) -> str:
    """One step of a path, which holds what somebody else has written."""
    return quote(step, safe="") if step.strip(".") else quote(step, safe="").replace(".", "%2E")
