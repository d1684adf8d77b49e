"""The realm in memory: who exists, who may log in with which roles, and what a token claims about them.

The claims are those of Keycloak 26, in its order: compared with tokens that Keycloak 26.4.5 made from the same export
(tests/e2e/realm/test_contract.py).
"""

from __future__ import annotations

import hmac
import uuid
from collections.abc import Iterable, Iterator
from urllib.parse import urlsplit

from msgspec.structs import replace

from devstack.realm.export import Client, Composites, RealmExport, Role, Roles, User
from ext_authz.errors import ConfigError

Claim = str | int | bool | list[str] | dict[str, list[str]] | dict[str, dict[str, list[str]]]
ClaimSet = dict[str, Claim]

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

_SHOWN = ("profile", "email")
"""Default scopes that appear in a token's `scope`."""
_SILENT = ("roles", "acr", "web-origins", "basic")
"""Default scopes that shape a token but do not appear in it."""
_OPTIONAL = ("address", "phone")
"""What a client may request besides; without effect here, as our users have neither."""


class Realm:
    """The export, indexed. Disabled clients and users are left out."""

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


def access_claims(realm: Realm, client: Client, user: User, scope: str) -> ClaimSet:
    """The part of an access token that follows from who and for which client, without times and ids."""
    roles = _roles_in_scope(realm, client, user)
    audiences = _audiences(client, roles)
    return {
        **({"aud": audiences if len(audiences) > 1 else audiences[0]} if audiences else {}),
        "sub": user.id,
        "typ": "Bearer",
        "azp": client.client_id,
        "acr": "1",
        **_if_any("allowed-origins", origins(client)),
        **_realm_access(roles),
        **_resource_access(roles),
        "scope": scope,
        **profile(user),
    }


def profile(user: User) -> ClaimSet:
    """What the scopes `profile` and `email` add to access tokens, ID tokens and userinfo."""
    return {
        "email_verified": user.email_verified,
        **_if_any("name", " ".join(filter(None, (user.first_name, user.last_name)))),
        "preferred_username": user.username.lower(),
        **_if_any("given_name", user.first_name),
        **_if_any("family_name", user.last_name),
        **_if_any("email", user.email),
    }


def _roles_in_scope(realm: Realm, client: Client, user: User) -> tuple[RoleOf, ...]:
    """Without full scope a token carries the client's own roles only."""
    roles = realm.roles(user)
    return roles if client.full_scope_allowed else tuple(role for role in roles if role[0] == client.client_id)


def _audiences(client: Client, roles: Iterable[RoleOf]) -> list[str]:
    """Audience mappers, then every other client the user has a role of (Keycloak's "audience resolve")."""
    resolved = (owner for owner, _ in roles if owner not in ("", client.client_id))
    return list(dict.fromkeys([*_mapped_audiences(client), *resolved]))


def _mapped_audiences(client: Client) -> list[str]:
    mappers = (mapper.config for mapper in client.protocol_mappers if mapper.protocol_mapper == "oidc-audience-mapper")
    wanted = [config for config in mappers if config.get("access.token.claim") == "true"]
    named = [config.get("included.client.audience") or config.get("included.custom.audience", "") for config in wanted]
    return [audience for audience in named if audience]


def _realm_access(roles: Iterable[RoleOf]) -> ClaimSet:
    names = [name for owner, name in roles if not owner]
    return {"realm_access": {"roles": names}} if names else {}


def _resource_access(roles: Iterable[RoleOf]) -> ClaimSet:
    access: dict[str, dict[str, list[str]]] = {}
    for owner, name in roles:
        if owner:
            access.setdefault(owner, {"roles": []})["roles"].append(name)
    return {"resource_access": access} if access else {}


def origins(client: Client) -> list[str]:
    """`+` in webOrigins stands for the origins of the redirect URIs."""
    own = [origin for origin in client.web_origins if origin != "+"]
    if "+" in client.web_origins:
        own += ["{0.scheme}://{0.netloc}".format(urlsplit(uri)) for uri in client.redirect_uris if "://" in uri]
    return list(dict.fromkeys(own))


def _if_any(name: str, value: Claim) -> ClaimSet:
    return {name: value} if value else {}


def granted_scope(requested: str | None) -> str | None:
    """The scope of a token for a requested scope (`openid profile email`), or None for a scope that does not exist."""
    names = (requested or "").split()
    if not set(names) <= {"openid", *_SHOWN, *_SILENT, *_OPTIONAL}:
        return None
    first = ["openid"] if "openid" in names else []
    return " ".join([*first, *_SHOWN, *(scope for scope in _OPTIONAL if scope in names)])


def refresh_scope(granted: str) -> str:
    """A refresh token lists the silent scopes as well."""
    return " ".join([*granted.split(), *_SILENT])
