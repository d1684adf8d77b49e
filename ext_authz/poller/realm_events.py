"""What an event of Keycloak means: whose tokens end, and who is to be asked about. Nothing here asks anybody.

Administrators' events name what was changed by its path in the admin REST API, users' events by their type. Both were
read off a real Keycloak 26.7 (docs/adr/0040-poller.md).
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import Struct

from ext_authz.poller.admin_api import Event
from ext_authz.revocation.entry import Kind

USER_TYPES = (
    "LOGOUT",
    "UPDATE_PASSWORD",
    "UPDATE_CREDENTIAL",
    "DELETE_ACCOUNT",
    "REVOKE_GRANT",
    "USER_DISABLED_BY_PERMANENT_LOCKOUT",
)
"""The types of users' events that mean something here; all others are not asked for."""

Revocation = tuple[Kind, str]
"""What is revoked, without its issuer."""


class Meaning(Struct, frozen=True):
    """Of one event."""

    kind: str = "ignored"
    """For the metric."""
    revoke: Revocation | None = None
    user: str = ""
    """Whose state is to be asked for; empty: nobody's."""
    deleted: bool = False
    everybody: bool = False
    """Whoever is known may be another than before."""
    client: str = ""
    """The id of a client that may be disabled now, or have another not-before."""
    realm: bool = False
    """The realm may."""


KINDS = ("user", "roles", "group", "session", "password", "logout", "client", "realm", "token", "ignored")
"""Of `Meaning.kind`."""

NOTHING = Meaning()
_IN_BULK = ("users", "groups", "roles", "clients", "components")
"""Paths of events of the realm: of an import, or of the set-up of a directory behind it."""


def meaning(event: Event) -> Meaning:
    """Of either kind of event; of what is not understood, nothing: the sweep finds what changed."""
    return _user_event(event) if event.type else _admin_event(event)


def _user_event(event: Event) -> Meaning:
    """By whom an account belongs to, or by Keycloak itself."""
    user = (Kind.USER, event.user_id) if event.user_id else None
    match event.type:
        case "LOGOUT" if event.session_id:
            return Meaning("session", (Kind.SESSION, event.session_id))
        case "REVOKE_GRANT" if token := event.details.get("token_id"):
            return Meaning("token", (Kind.TOKEN, token))
        case "REVOKE_GRANT":  # other applications have tokens of the same session, and may go on
            return Meaning("logout", user)
        case "UPDATE_PASSWORD":
            return Meaning("password", user)
        case "UPDATE_CREDENTIAL" if event.details.get("credential_type") == "password":
            return Meaning("password", user)
        case "DELETE_ACCOUNT":
            return Meaning("user", user, event.user_id, deleted=True)
        case "USER_DISABLED_BY_PERMANENT_LOCKOUT":
            return Meaning("user", user, event.user_id)
    return NOTHING


def _admin_event(event: Event) -> Meaning:
    path = event.resource_path.split("/")
    is_new = event.operation_type == "CREATE"
    if path[0] == "user-storage" or (event.resource_type in ("REALM", "COMPONENT") and path[0] in _IN_BULK):
        return Meaning("realm", everybody=True)
    match path:
        case ["users", user, *rest] if user:
            return _of_user(event, user, rest)
        case ["sessions", session] if event.operation_type == "DELETE":
            return Meaning("session", (Kind.SESSION, session))
        case ["groups", _, *rest]:
            return Meaning("group", everybody=bool(rest) or not is_new)  # a new one has nobody in it
        case ["roles" | "roles-by-id", _, *rest] | ["clients", _, "roles", _, *rest]:
            return Meaning("roles", everybody=bool(rest) or not is_new)
        case ["clients", client] | ["clients", client, "push-revocation"]:
            return _of_client(event, client)
        case ["" | "logout-all" | "push-revocation"] if event.resource_type == "REALM":
            return Meaning("realm", realm=True)
    return NOTHING


def _of_user(event: Event, user: str, rest: list[str]) -> Meaning:
    revoke = (Kind.USER, user)
    match event.operation_type, *rest:
        case ("DELETE",):
            return Meaning("user", revoke, user, deleted=True)
        case ("UPDATE",):
            return Meaning("user", revoke if _written(event).enabled is False else None, user)
        case ("ACTION", "reset-password"):
            return Meaning("password", revoke)
        case ("ACTION", "credentials", _) if event.details.get("credential_type") == "password":
            return Meaning("password", revoke)
        case ("ACTION", "logout") | (_, "consents", _):
            return Meaning("logout", revoke)
        case (_, "role-mappings", *_):
            return Meaning("roles", user=user)
        case (_, "groups", *_):
            return Meaning("group", user=user)
    return NOTHING


def _of_client(event: Event, client: str) -> Meaning:
    if event.operation_type == "DELETE":
        name = _written(event).client_id
        return Meaning("client", (Kind.CLIENT, name) if name else None, everybody=True)
    return NOTHING if event.operation_type == "CREATE" else Meaning("client", client=client)


class _Written(Struct, rename="camel"):
    """What an administrator wrote, of which a realm may keep nothing."""

    enabled: bool | None = None
    client_id: str = ""


def _written(event: Event) -> _Written:
    try:
        return msgspec.json.decode(event.representation, type=_Written)
    except msgspec.MsgspecError:
        return _Written()


OVERLAP = 30_000
"""Milliseconds for which an event may be hidden in a transaction while later ones are read."""


class Position(Struct, frozen=True):
    """Up to where a stream of events was read. Events appear out of order: each when its transaction is committed, with
    the time at which that began. So the last seconds are read again, and what was read before is known by its id."""

    time: int
    """Milliseconds of Keycloak's clock: of the latest event, or where reading began."""
    ids: dict[str, int] = {}
    """The times of the events from `OVERLAP` before `time` on, by id."""
    last: str = ""
    """The id of the latest event; where it is no longer there, others may be missing too."""

    @property
    def since(self) -> int:
        return self.time - OVERLAP

    def after(self, page: Sequence[Event]) -> Position:
        """When these were read too, the oldest first."""
        if not page:
            return self
        time, last = max(self.time, page[-1].time), self.last
        if page[-1].time >= self.time:
            last = page[-1].id
        ids = {**self.ids, **{event.id: event.time for event in page}}
        return Position(time, {key: at for key, at in ids.items() if at >= time - OVERLAP}, last)
