"""API tokens of our own for tests, and whatever somebody would make of one.

own_token()                            a good one, of alice
own_token({"exp": ABSENT})             other claims, or fewer
own_token(tollgate={"models": []})     another claim `tollgate`
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from ext_authz.identity.api_tokens import wrap
from ext_authz.identity.standing import Standing
from ext_authz.policy.issuers import Issuer, OwnTokens
from ext_authz.policy.rights import NOBODY
from tests.tokens import ABSENT, ALICE, AUDIENCE, EC256, TestKey, mint, without_absent

OWN_ISSUER = "https://models.example/tollgate"
GRANT = "6a4b7c1e-0b1f-4a58-9a63-3d1f6f3c2a10"
DAY = 86_400


def own_tokens(issuer: str = OWN_ISSUER) -> OwnTokens:
    """As a policy has them."""
    made = Issuer(
        name="tollgate",
        issuer=issuer,
        jwks_url="https://models.example/tollgate/jwks",
        audiences=frozenset({AUDIENCE}),
        algorithms=frozenset({"ES256"}),
        types=frozenset({"at+jwt", "application/at+jwt"}),
        max_token_age=90 * DAY,
    )
    return OwnTokens(made, made.max_token_age, 50, NOBODY)


def own_claims(
    overrides: Mapping[str, object] | None = None,
    *,
    tollgate: Mapping[str, object] | None = None,
    now: float | None = None,
) -> dict[str, object]:
    """Every claim that a mint of tests would add besides is absent."""
    issued_at = int(time.time() if now is None else now)
    owner = without_absent({"issuer": "ml", "kind": "user", **(tollgate or {})})
    made = {
        "iss": OWN_ISSUER,
        "sub": ALICE,
        "aud": AUDIENCE,
        "azp": "tollgate:nightly",
        "jti": "own-1",
        "sid": GRANT,
        "iat": issued_at,
        "exp": issued_at + DAY,
        "typ": "Bearer",
        "scope": "models",
        "tollgate": owner,
    }
    others = ("auth_time", "acr", "allowed-origins", "realm_access", "resource_access", "email_verified", "name")
    return {**dict.fromkeys((*others, "preferred_username", "email"), ABSENT), **made, **(overrides or {})}


def own_jws(
    overrides: Mapping[str, object] | None = None,
    *,
    tollgate: Mapping[str, object] | None = None,
    key: TestKey = EC256,
    headers: Mapping[str, object] | None = None,
    now: float | None = None,
) -> str:
    claims = own_claims(overrides, tollgate=tollgate, now=now)
    return mint(claims, key=key, headers={"typ": "at+jwt", **(headers or {})}, now=now)


def own_token(overrides: Mapping[str, object] | None = None, **how: Any) -> str:  # noqa: ANN401 - as `own_jws` has it
    return wrap(own_jws(overrides, **how))


def standing(*roles: str, now: tuple[str, ...] | None = None, **changes: object) -> Standing:
    """Of somebody who signed in with these roles, and has `now` according to the identity provider."""
    fields: dict[str, object] = {
        "service": False,
        "enabled": True,
        "username": "alice",
        "roles": frozenset(roles),
        "groups": frozenset({"/staff"}),
        "scopes": frozenset({"models", "openid"}),
        "claims": {"plan": "gold"},
        "signed_in_at": 1.0,
        "current_roles": None if now is None else frozenset(now),
        "current_groups": None if now is None else frozenset({"/staff"}),
        "checked_at": 0.0 if now is None else 2.0,
        "ends": {},
    }
    return Standing(**{**fields, **changes})  # type: ignore[arg-type]
