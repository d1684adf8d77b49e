"""What a token claims about a user, for one client: audiences, roles, groups, profile; and the scopes that exist.

The claims are those of Keycloak 26, in its order: compared with tokens that Keycloak made from the same export
(tests/e2e/realm/test_contract.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal
from urllib.parse import urlsplit

from devstack.realm.export import Client, User
from devstack.realm.realm import Realm, RoleOf

Claim = str | int | bool | list[str] | dict[str, list[str]] | dict[str, dict[str, list[str]]]
ClaimSet = dict[str, Claim]
Destination = Literal["access.token.claim", "id.token.claim", "userinfo.token.claim"]
"""The option of a mapper that says where its claim goes."""

_SHOWN = ("profile", "email")
"""Default scopes that appear in a token's `scope`."""
_SILENT = ("roles", "acr", "web-origins", "basic")
"""Default scopes that shape a token but do not appear in it."""
_OPTIONAL = ("address", "phone")
"""What a client may request besides; without effect here, as our users have neither."""


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
        **groups(realm, client, user, "access.token.claim"),
    }


def groups(realm: Realm, client: Client, user: User, destination: Destination) -> ClaimSet:
    """Of the client's group membership mappers; a user without groups has no such claim."""
    claims: ClaimSet = {}
    for mapper in client.protocol_mappers:
        config = mapper.config
        if mapper.protocol_mapper == "oidc-group-membership-mapper" and config.get(destination) == "true":
            is_full = config.get("full.path", "true") == "true"
            names = [group.path if is_full else group.name for group in realm.groups_of(user)]
            claims |= _if_any(config.get("claim.name", "groups"), names)
    return claims


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
