"""The realm in memory: who exists, who may log in, and which roles each one has."""

from __future__ import annotations

import hmac
import uuid
from collections.abc import Iterator

from msgspec.structs import replace

from devstack.realm.export import Client, Composites, RealmExport, Role, Roles, User
from ext_authz.errors import ConfigError

RoleOf = tuple[str, str]
"""(client, role); the client is empty for a realm role."""

_BUILT_IN = Roles(
    realm=(Role("offline_access"), Role("uma_authorization")),
    client={
        "account": (
            Role("view-profile"),
            Role("manage-account", Composites(client={"account": ("manage-account-links",)})),
            Role("manage-account-links"),
        )
    },
)
"""The roles of every Keycloak realm that an ordinary user's token shows; the export may define them anew."""


class Realm:
    """Everything the export says, indexed. Disabled clients and users are as good as absent."""

    def __init__(self, export: RealmExport) -> None:
        self.export = export
        self.name = export.realm
        self._clients = {client.client_id: client for client in export.clients if client.enabled}
        users = [self._with_id(user) for user in (*export.users, *self._missing_service_accounts())]
        self._users = {user.id: user for user in users if user.enabled}
        self._by_name = {user.username.lower(): user for user in self._users.values()}
        self._roles = dict(_roles(export))
        self._role_sets = {user.id: tuple(dict.fromkeys(self._roles_of(user))) for user in self._users.values()}

    def client(self, client_id: str) -> Client | None:
        return self._clients.get(client_id)

    def clients(self) -> tuple[Client, ...]:
        return tuple(self._clients.values())

    def user(self, user_id: str) -> User | None:
        return self._users.get(user_id)

    def known_user(self, user_id: str) -> User:
        """For a caller that has seen the user in an active token or session."""
        return self._users[user_id]

    def authenticate(self, username: str, password: str) -> User | None:
        """The user, if the password is right; service accounts have none."""
        user = self._by_name.get(username.lower())
        if user is None or user.service_account_client_id:
            return None
        passwords = [credential.value for credential in user.credentials if credential.type == "password"]
        matches = [hmac.compare_digest(password.encode(), known.encode()) for known in passwords]
        return user if any(matches) else None

    def service_account(self, client: Client) -> User | None:
        accounts = (user for user in self._users.values() if user.service_account_client_id == client.client_id)
        return next(accounts, None)

    def roles(self, user: User) -> tuple[RoleOf, ...]:
        """The user's roles with everything that composite roles bring along."""
        return self._role_sets[user.id]

    def _missing_service_accounts(self) -> Iterator[User]:
        """Keycloak makes the account when the client has the switch and the export no user for it."""
        present = {user.service_account_client_id for user in self.export.users}
        for client in self.export.clients:
            if client.service_accounts_enabled and client.client_id not in present:
                name = f"service-account-{client.client_id}".lower()
                yield User(username=name, enabled=True, service_account_client_id=client.client_id)

    def _with_id(self, user: User) -> User:
        """Keycloak draws an id when the export has none; here it follows from the name, so a restart keeps it."""
        derived = uuid.uuid5(uuid.NAMESPACE_URL, f"devrealm:{self.name}/{user.username.lower()}")
        return replace(user, id=user.id or str(derived))

    def _roles_of(self, user: User) -> Iterator[RoleOf]:
        given = [("", role) for role in user.realm_roles]
        given += [(client, role) for client, roles in user.client_roles.items() for role in roles]
        waiting, seen = given[::-1], set[RoleOf]()
        while waiting:
            role = waiting.pop()
            if role not in self._roles:
                raise ConfigError(f"realm export: {_described(role)} of user {user.username!r} is not among `roles`")
            if role not in seen:
                seen.add(role)
                yield role
                waiting.extend(_members(self._roles[role]))


def _roles(export: RealmExport) -> Iterator[tuple[RoleOf, Composites]]:
    """Later entries win: first what Keycloak makes itself, then the export."""
    default = Composites(("offline_access", "uma_authorization"), {"account": ("view-profile", "manage-account")})
    yield ("", f"default-roles-{export.realm.lower()}"), default
    for roles in (_BUILT_IN, export.roles):
        for role in roles.realm:
            yield ("", role.name), role.composites
        for client, owned in roles.client.items():
            for role in owned:
                yield (client, role.name), role.composites


def _members(composites: Composites) -> Iterator[RoleOf]:
    for role in composites.realm:
        yield "", role
    for client, roles in composites.client.items():
        for role in roles:
            yield client, role


def _described(role: RoleOf) -> str:
    client, name = role
    return f"role {name!r} of client {client!r}" if client else f"realm role {name!r}"
