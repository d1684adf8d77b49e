"""What a token says about a user, a client and a session: the claims of Keycloak 26, in its order.

Compared with tokens that Keycloak 26.4.5 made from the same export (tests/e2e/realm/test_contract.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

from devstack.realm.export import Client, User
from devstack.realm.realm import Realm, RoleOf

Claim = str | int | bool | list[str] | dict[str, list[str]] | dict[str, dict[str, list[str]]]
ClaimSet = dict[str, Claim]


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
