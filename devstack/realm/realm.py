"""The realm in memory: its clients, users, groups and roles. Changes by an administrator last until a restart."""

from __future__ import annotations

import hmac
import uuid
from collections.abc import Iterable, Iterator

from msgspec.structs import replace

from devstack.realm.export import Client, Composites, Group, RealmExport, Role, Roles, User
from ext_authz.errors import ConfigError

RoleOf = tuple[str, str]
"""(client, role); the client is empty for a realm role."""

MANAGEMENT = "realm-management"
"""The client whose roles the admin REST API asks for."""

_QUERIES = {
    "view-users": ("query-users", "query-groups"),
    "view-clients": ("query-clients",),
}
_REALM_ADMIN = (
    *("create-client", "impersonation", "manage-authorization", "manage-clients", "manage-events"),
    *("manage-identity-providers", "manage-realm", "manage-users", "query-clients", "query-groups", "query-realms"),
    *("manage-organizations", "query-organizations", "view-organizations"),
    *("query-users", "view-authorization", "view-clients", "view-events", "view-identity-providers", "view-realm"),
    "view-users",
)
_BUILT_IN = Roles(
    realm=(
        Role("offline_access", "${role_offline-access}"),
        Role("uma_authorization", "${role_uma_authorization}"),
    ),
    client={
        "account": (
            Role("view-profile"),
            Role("manage-account", composites=Composites(client={"account": ("manage-account-links",)})),
            Role("manage-account-links"),
        ),
        MANAGEMENT: (
            *(Role(name, composites=Composites(client={MANAGEMENT: _QUERIES.get(name, ())})) for name in _REALM_ADMIN),
            Role("realm-admin", composites=Composites(client={MANAGEMENT: _REALM_ADMIN})),
        ),
    },
)
"""The roles of every Keycloak realm that an ordinary user's token shows, and those of its administration; the export
may define them anew."""
_NO_LOGIN = Client("", standard_flow_enabled=False)


class Realm:
    """Who exists. Disabled clients and users are there, and not found by `client` and `user`."""

    def __init__(self, export: RealmExport, now: int = 0) -> None:
        """`now` is when its users were made. Raises ConfigError where the export contradicts itself."""
        self.export = export
        self.name = export.realm
        self.id = self._derived("realm", "")
        self.not_before = 0
        """Tokens issued before are void: seconds since the epoch."""
        built_in = (replace(_NO_LOGIN, client_id=name) for name in _BUILT_IN.client)
        clients = (replace(c, id=c.id or self._derived("client", c.client_id)) for c in (*built_in, *export.clients))
        self._clients = {client.client_id: client for client in clients}
        self._groups = {group.path: group for group in self._flat(export.groups, "")}
        users = (*export.users, *self._missing_service_accounts())
        # Keycloak draws an id when the export has none; here it follows from the name, so a restart keeps it.
        users = tuple(
            replace(
                user,
                id=user.id or self._derived("", user.username.lower()),
                created_timestamp=user.created_timestamp or now * 1000,
            )
            for user in users
        )
        self._users = {user.id: user for user in users}
        self._roles = dict(_roles(export))
        self._ensure_known()

    def client(self, client_id: str) -> Client | None:
        client = self._clients.get(client_id)
        return client if client and client.enabled else None

    def clients(self) -> tuple[Client, ...]:
        return tuple(client for client in self._clients.values() if client.enabled)

    def all_clients(self) -> tuple[Client, ...]:
        return tuple(self._clients.values())

    def put_client(self, client: Client) -> None:
        self._clients[client.client_id] = client

    def user(self, user_id: str) -> User | None:
        user = self._users.get(user_id)
        return user if user and user.enabled else None

    def known_user(self, user_id: str) -> User:
        """For a caller that has seen the user in an active token or session."""
        return self._users[user_id]

    def not_before_for(self, user: User) -> int:
        """Tokens of the user that were issued before are void."""
        return max(self.not_before, user.not_before)

    def all_users(self) -> tuple[User, ...]:
        return tuple(self._users.values())

    def put_user(self, user: User) -> None:
        self._users[user.id] = user

    def remove_user(self, user_id: str) -> None:
        del self._users[user_id]

    def named(self, username: str) -> User | None:
        return next((user for user in self._users.values() if user.username.lower() == username.lower()), None)

    def authenticate(self, username: str, password: str) -> User | None:
        """The user, if the password is right; service accounts have none."""
        user = self.named(username)
        if user is None or not user.enabled or user.service_account_client_id:
            return None
        passwords = [credential.value for credential in user.credentials if credential.type == "password"]
        matches = [hmac.compare_digest(password.encode(), known.encode()) for known in passwords]
        return user if any(matches) else None

    def service_account(self, client: Client) -> User | None:
        accounts = (user for user in self._users.values() if user.service_account_client_id == client.client_id)
        return next((user for user in accounts if user.enabled), None)

    def groups(self) -> tuple[Group, ...]:
        return tuple(self._groups.values())

    def put_group(self, group: Group) -> None:
        self._groups[group.path] = group

    def groups_of(self, user: User) -> list[Group]:
        return [self._groups[path] for path in user.groups]

    def roles(self, user: User) -> tuple[RoleOf, ...]:
        """The user's own roles and those of the user's groups, with everything that composite roles bring along."""
        holders: tuple[User | Group, ...] = (user, *self.groups_of(user))
        return self.expanded(role for holder in holders for role in direct_roles(holder))

    def assigned(self, holder: User | Group) -> tuple[RoleOf, ...]:
        """What was assigned to a user or a group itself."""
        return tuple(direct_roles(holder))

    def effective(self, holder: User | Group) -> tuple[RoleOf, ...]:
        return self.roles(holder) if isinstance(holder, User) else self.expanded(direct_roles(holder))

    def expanded(self, given: Iterable[RoleOf]) -> tuple[RoleOf, ...]:
        """These roles, and all that they are composed of."""
        waiting, seen = [*given][::-1], dict[RoleOf, None]()
        while waiting:
            role = waiting.pop()
            if role not in seen:
                seen[role] = None
                waiting.extend(members(self._roles[role].composites))
        return tuple(seen)

    def role(self, role: RoleOf) -> Role | None:
        return self._roles.get(role)

    def role_id(self, role: RoleOf) -> str:
        return self._derived("role", "/".join(role))

    def roles_owned_by(self, client_id: str) -> tuple[RoleOf, ...]:
        """Of a client; of the realm for an empty name."""
        return tuple(role for role in self._roles if role[0] == client_id)

    def _ensure_known(self) -> None:
        users, groups = self._users.values(), self._groups.values()
        given = [(f"user {user.username!r}", direct_roles(user)) for user in users]
        given += [(f"group {group.path!r}", direct_roles(group)) for group in groups]
        given += [(_described(role), members(known.composites)) for role, known in self._roles.items()]
        for whose, roles in given:
            for role in roles:
                if role not in self._roles:
                    raise ConfigError(f"realm export: {_described(role)} of {whose} is not among `roles`")
        for user in self._users.values():
            for path in user.groups:
                if path not in self._groups:
                    raise ConfigError(f"realm export: group {path!r} of user {user.username!r} is not among `groups`")

    def _missing_service_accounts(self) -> Iterator[User]:
        """Keycloak makes the account when the client has the switch and the export no user for it."""
        present = {user.service_account_client_id for user in self.export.users}
        for client in self.export.clients:
            if client.service_accounts_enabled and client.client_id not in present:
                name = f"service-account-{client.client_id}".lower()
                yield User(username=name, enabled=True, service_account_client_id=client.client_id)

    def _flat(self, groups: Iterable[Group], parent: str) -> Iterator[Group]:
        for group in groups:
            path = f"{parent}/{group.name}"
            yield replace(group, path=path, id=group.id or self._derived("group", path))
            yield from self._flat(group.sub_groups, path)

    def _derived(self, kind: str, name: str) -> str:
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f"devrealm:{kind}{':' if kind else ''}{self.name}/{name}"))


def _roles(export: RealmExport) -> Iterator[tuple[RoleOf, Role]]:
    """Later entries win: first what Keycloak makes itself, then the export."""
    default = Composites(("offline_access", "uma_authorization"), {"account": ("view-profile", "manage-account")})
    name = default_role(export)
    yield ("", name), Role(name, "${role_default-roles}", default)
    for roles in (_BUILT_IN, export.roles):
        for role in roles.realm:
            yield ("", role.name), role
        for client, owned in roles.client.items():
            for role in owned:
                yield (client, role.name), role


def default_role(export: RealmExport) -> str:
    """Of every user that was not imported without it."""
    return f"default-roles-{export.realm.lower()}"


def direct_roles(holder: User | Group) -> Iterator[RoleOf]:
    """What was assigned to a user or a group itself."""
    return members(Composites(holder.realm_roles, holder.client_roles))


def members(composites: Composites) -> Iterator[RoleOf]:
    for role in composites.realm:
        yield "", role
    for client, roles in composites.client.items():
        for role in roles:
            yield client, role


def _described(role: RoleOf) -> str:
    client, name = role
    return f"role {name!r} of client {client!r}" if client else f"realm role {name!r}"
