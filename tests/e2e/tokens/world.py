"""The service of API tokens over a real Postgres and a real Redis, and people who use it."""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, LiteralString

import jwt
import pytest
from jwt.types import Options
from msgspec.structs import replace

from ext_authz.clock import Clock, SystemClock
from ext_authz.db import redis_keys
from ext_authz.db.migrate import migrate
from ext_authz.db.postgres import Pool, connect
from ext_authz.db.redis import connect as connect_redis
from ext_authz.decision import Principal
from ext_authz.identity.api_tokens import unwrap
from ext_authz.identity.identity import Identity
from ext_authz.policy.load import load_policy
from ext_authz.policy.model import Policy
from ext_authz.revocation.operations import opened
from ext_authz.settings import StoreSettings
from ext_authz.tokens.cipher import Cipher
from ext_authz.tokens.keys import SigningKeys
from ext_authz.tokens.model import Actor, Issued, NewGrant, NotDone, Why
from ext_authz.tokens.service import TokenService

KEY = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
OTHER_KEY = "ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA="
DAY = timedelta(days=1)
ISS = "https://id.example/realms/ml"

POLICY = """
version: 1
issuers:
  - {name: kc, issuer: "https://id.example/realms/ml", audiences: [gateway]}
resource: {url: "https://models.example"}
tokens: {audiences: [gateway], max_lifetime: 30d, per_owner: 3, administrators: {role: boss}}
models:
  small: {call: {role: infer}}
  large: {call: {all: [{role: gold}, {scope: big}]}}
  "lab-*": {call: {group: /lab}}
  "*": {call: {role: boss}}
routes:
  - {name: infer, path: "/v2/models/{model}/infer", methods: [POST]}
"""


def caller(
    name: str,
    *roles: str,
    groups: str = "",
    scopes: str = "",
    client: str = "web",
    session: str = "s1",
    at: int = 1,
    issuer: tuple[str, str] = ("kc", ISS),
) -> Actor:
    """A person with a token of the identity provider; administrator with the role `boss`."""
    issuer_name, iss = issuer
    identity = Identity(
        principal=Principal(iss, name, client, roles, f"jti-{name}"),
        issuer_name=issuer_name,
        session=session,
        issued_at=at,
        expires_at=4e9,
        audiences=("gateway",),
        scopes=frozenset(scopes.split()),
        roles=frozenset(roles),
        groups=frozenset(groups.split()),
        username=f"{name}-name",
    )
    return Actor(
        via="rest",
        name=f"{name}-name",
        issuer=issuer_name,
        subject=name,
        identity=identity,
        administrator="boss" in roles,
        address="192.0.2.7",
    )


def with_token(actor: Actor, issued: Issued) -> Actor:
    """The same person, here with an API token."""
    assert actor.identity is not None
    grant, claims = issued.grant, claims_of(issued.token)
    principal = Principal(ISS, grant.owner.subject, claims["azp"], (), claims["jti"])
    roles = actor.identity.roles if grant.roles is None else actor.identity.roles.intersection(grant.roles)
    identity = replace(
        actor.identity,
        principal=principal,
        session=claims["sid"],
        grant=claims["sid"],
        expires_at=claims["exp"],
        scopes=actor.identity.scopes.intersection(grant.scopes),
        roles=roles,
    )
    return replace(actor, subject=grant.owner.subject, identity=identity, administrator="boss" in roles)


COMMAND = Actor(via="cli", name="root@host", administrator=True)
ALICE = caller("alice", "infer", "gold", groups="/lab /ops", scopes="big openid")
BOB = caller("bob", "infer", groups="/ops", scopes="openid")
BOSS = caller("boss", "boss", "infer", scopes="openid")


def wanted(name: str = "batch", *, lifetime: timedelta = DAY, **more: Any) -> NewGrant:  # noqa: ANN401 - fields of it
    return NewGrant(name=name, lifetime=lifetime, **more)


def claims_of(token: str) -> dict[str, Any]:
    """Not verified."""
    part = unwrap(token).split(".")[1]
    claims: dict[str, Any] = json.loads(urlsafe_b64decode(part + "=="))
    return claims


async def verified(keys: SigningKeys, token: str) -> dict[str, Any]:
    """Its claims; KeyError where its key is not published. Whether it has ended is not looked at."""
    published = {key["kid"]: jwt.PyJWK(key) for key in (await keys.jwks())["keys"]}
    unlooked: Options = {"verify_exp": False, "verify_aud": False, "verify_iat": False, "verify_nbf": False}
    claims: dict[str, Any] = jwt.decode(
        token, published[jwt.get_unverified_header(token)["kid"]], algorithms=["ES256"], options=unlooked
    )
    return claims


def policy_of(directory: Path, text: str = POLICY) -> Policy:
    (directory / "policy.yaml").write_text(text)
    return load_policy(directory / "policy.yaml", {})


class World:
    """One replica of the console's service."""

    def __init__(self, database_url: str, pool: Pool, keys: SigningKeys, service: TokenService) -> None:
        self.database_url = database_url
        self.pool = pool
        self.keys = keys
        self.service = service

    async def sql(self, statement: LiteralString, *values: object) -> list[tuple[Any, ...]]:
        async with await connect(self.database_url) as connection:
            cursor = await connection.execute(statement, values)
            return await cursor.fetchall() if cursor.description else []

    async def actions(self) -> list[str]:
        """Of the audit log, the oldest first."""
        return [action for (action,) in await self.sql("SELECT action FROM audit_log ORDER BY position")]


@asynccontextmanager
async def world_of(
    database_url: str, redis_url: str, policy: Policy, *, clock: Clock | None = None, keys: str = KEY
) -> AsyncIterator[World]:
    """Both stores, the tables made."""
    await migrate(database_url)
    settings = StoreSettings.model_validate({"database_url": database_url, "redis_url": redis_url})
    pool, clock = Pool(database_url, timeout=5), clock or SystemClock()
    await pool.open()
    try:
        async with opened(settings, policy.issuers) as operations:
            signing = SigningKeys(pool, Cipher(keys), clock)
            yield World(database_url, pool, signing, TokenService(policy, pool, signing, operations, clock))
    finally:
        await pool.close()


async def ensure_refused(
    attempt: Awaitable[object], why: Why, match: str | None = None, *, field: str | None = None
) -> None:
    with pytest.raises(NotDone, match=match) as refused:
        await attempt
    assert refused.value.why is why
    assert field in (None, refused.value.field)


async def revoked(redis_url: str, entry_id: str) -> bool:
    """What a check finds in Redis."""
    async with connect_redis(redis_url, timeout=2) as redis:
        held = await redis.get(redis_keys.revocation(entry_id))
    return isinstance(held, bytes) and not held.startswith(b"-")
