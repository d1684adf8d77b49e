"""API tokens of our own for callers of an authorizer that is a process: the service that makes them, over its stores.

It stands where the console does, beside the tokens of the identity provider.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from ext_authz.policy.load import load_policy
from ext_authz.policy.model import Policy
from ext_authz.revocation.entry import Kind, Target
from ext_authz.revocation.operations import Receipt, opened
from ext_authz.settings import StoreSettings
from ext_authz.tokens.model import Actor, Issued
from tests.e2e.tokens.world import World, caller, wanted, world_of
from tests.own_tokens import OWN_ISSUER
from tests.tokens import AUDIENCE

T = TypeVar("T")


def with_tokens(policy: str, jwks: str) -> str:
    """Of the identity provider's and our own; the keys of ours are beside `jwks`."""
    keys = f"{jwks.rpartition('/')[0]}/own.json"
    own = f"issuer: {OWN_ISSUER}, jwks_url: {keys}, audiences: [{AUDIENCE}], max_lifetime: 30d"
    return f"{policy}\ntokens: {{{own}}}\n"


def published(database_url: str, redis_url: str, directory: Path) -> Issuing:
    """By the policy in `directory`; its keys into the place of tests/e2e/reload/world.py."""
    issuing = Issuing(database_url, redis_url, load_policy(directory / "policy.yaml", {}))
    (directory / "keys" / "own.json").write_bytes(issuing.jwks())
    return issuing


class Issuing:
    """Owners are of the first issuer of the policy."""

    def __init__(self, database_url: str, redis_url: str, policy: Policy) -> None:
        self._stores = (database_url, redis_url)
        self._policy = policy

    def console(self, work: Callable[[World], Awaitable[T]]) -> T:
        async def done() -> T:
            async with world_of(*self._stores, self._policy) as console:
                return await work(console)

        return asyncio.run(done())

    def jwks(self) -> bytes:
        """The document that the console serves."""

        async def keys(console: World) -> dict[str, Any]:
            await console.keys.signing()
            return await console.keys.jwks()

        return json.dumps(self.console(keys)).encode()

    def signs_in(self, name: str, *roles: str) -> Actor:
        """At the console, in these roles."""
        issuer = self._policy.issuers[0]
        actor = caller(name, *roles, at=int(datetime.now(UTC).timestamp()), issuer=(issuer.name, issuer.issuer))
        assert actor.identity is not None
        identity = actor.identity
        self.console(lambda console: console.service.signed_in(identity))
        return actor

    def makes(self, actor: Actor, name: str = "ci", **more: Any) -> Issued:  # noqa: ANN401 - fields of it
        return self.console(lambda console: console.service.create(actor, wanted(name, **more)))

    def revokes(self, actor: Actor, issued: Issued) -> None:
        """Its grant. Raises Unavailable for the store that does not hold it yet."""
        self.console(lambda console: console.service.revoke(actor, issued.grant.id))

    def revokes_user(self, name: str) -> Receipt:
        """With every token of every kind."""
        return self.revokes_every(Kind.USER, name)

    def revokes_every(self, kind: Kind, value: str) -> Receipt:
        """Token of this user, session or client."""

        async def done() -> Receipt:
            database_url, redis_url = self._stores
            settings = StoreSettings.model_validate({"database_url": database_url, "redis_url": redis_url})
            target = Target(kind, self._policy.issuers[0].name, value)
            async with opened(settings, self._policy.issuers) as operations:
                return (await operations.revoke(target, actor="", reason="", lifetime=timedelta(days=31))).receipt

        return asyncio.run(done())
