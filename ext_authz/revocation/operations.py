"""What an operator does about revocations, with typed results; `commands.py` only prints them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TypeVar

from msgspec import Struct
from msgspec.structs import replace
from redis.asyncio import Redis
from redis.exceptions import RedisError

from ext_authz.db import redis_keys
from ext_authz.db.postgres import Connection
from ext_authz.db.redis import connect, connected
from ext_authz.errors import Unavailable
from ext_authz.ledger.decisions import RecordedDecision, recorded_decision
from ext_authz.ledger.facts import Facts
from ext_authz.ledger.seen import Sighting, User, issuers_seen, sighting, users_named
from ext_authz.policy.model import Issuer
from ext_authz.revocation import presented
from ext_authz.revocation.copy import RevocationCopy
from ext_authz.revocation.entry import Entry, Kind
from ext_authz.revocation.history import Past, changes
from ext_authz.revocation.revoker import Receipt, Revoker
from ext_authz.revocation.store import Filter, Recorded, RevocationStore
from ext_authz.revocation.target import Issuers, Named, Target, Wanted, target_of
from ext_authz.settings import StoreSettings

T = TypeVar("T")

PATIENCE = 5.0
"""Seconds an operator waits for each store."""
MAX_SHARDS = 64


class Revoked(Struct, frozen=True):
    """What became of a revocation."""

    target: Target
    receipt: Receipt
    seen: Sighting | None = None
    """Which tokens it hits; None: the ledger does not say."""
    alias: User | None = None
    """Nobody of this subject was seen, but somebody who goes by it as a name."""
    waiting: int = 0
    """Decisions that are not in the ledger yet."""
    incomplete: bool = False
    """This Redis is not known to hold every revocation: authorizers that use it ask Postgres, or none uses it."""


class Lifted(Struct, frozen=True):
    """What became of a lifting; without a receipt nothing was in force."""

    target: Target
    receipt: Receipt | None


class Operations:
    """Raises ConfigError for what cannot be, TollgateError and Unavailable where something cannot be looked up."""

    def __init__(
        self, store: RevocationStore, shards: Sequence[Redis], issuers: tuple[Issuer, ...], settings: StoreSettings
    ) -> None:
        """`issuers`: of the policy; none where there is no policy at hand."""
        self._store = store
        self._shards = shards
        self._copy = RevocationCopy(*shards)
        self._revoker = Revoker(store, self._copy)
        self._issuers = issuers
        self._settings = settings

    async def target(self, wanted: Wanted) -> Target:
        """What it is all about."""
        named, users = wanted.named, None
        if wanted.decision:
            named = _named_by(await recorded_decision(wanted.decision, self._settings))
        if wanted.username:
            users = await self._store.look(partial(users_named, username=wanted.username))
        return target_of(wanted, await self._known_issuers(wanted), named=named, users=users)

    async def doubt(self, token: str) -> str:
        """Why what a token says is not to be believed; empty when the door would take it."""
        return await presented.doubt(token, self._issuers)

    async def revoke(self, target: Target, *, actor: str, reason: str, lifetime: timedelta) -> Revoked:
        """In force first; what it hits is looked up afterwards."""
        entry = Entry(
            kind=target.kind,
            issuer=target.issuer,
            value=target.value,
            expires_at=datetime.now(UTC) + lifetime,
            reason=reason,
            actor=actor,
        )
        receipt = await self._revoker.revoke(entry)
        if not receipt.postgres:
            return Revoked(target, receipt)
        seen, alias = await self._sighting(target), None
        if seen is not None and seen.last_at is None and target.kind is Kind.USER:
            users = await self._looked(partial(users_named, username=target.value))
            alias = next((user for user in users or () if user.issuer == target.issuer), None)
        return Revoked(target, receipt, seen, alias, await self._waiting(), await self._incomplete())

    async def lift(self, target: Target, *, actor: str, reason: str) -> Lifted:
        """None where nothing of the kind is in force; recorded like everything else."""
        return Lifted(
            target, await self._revoker.lift(target.kind, target.issuer, target.value, actor=actor, reason=reason)
        )

    async def listed(self, wanted: Filter, user: str = "") -> list[Recorded]:
        """`user`: only this subject, and whoever goes by this name."""
        if user:
            named = await self._store.look(partial(users_named, username=user))
            wanted = replace(wanted, users=[user, *(each.subject for each in named)])
        return await self._store.entries(wanted)

    async def history(self, value: str | None, kind: Kind | None, issuer: str, limit: int) -> list[Past]:
        """The last changes, the oldest first; all that there are where nothing is named."""
        return await self._store.look(partial(changes, value=value, kind=kind, issuer=issuer, limit=limit))

    async def _known_issuers(self, wanted: Wanted) -> Issuers:
        """Of the policy; without one, those whose tokens were seen."""
        if self._issuers:
            return Issuers({issuer.name: issuer.issuer for issuer in self._issuers}, "the policy")
        if wanted.force and wanted.issuer:
            return Issuers()
        return Issuers(await self._store.look(issuers_seen))

    async def _sighting(self, target: Target) -> Sighting | None:
        iss = next((issuer.issuer for issuer in self._issuers if issuer.name == target.issuer), "")
        kind, issuer, value = target.kind.label, target.issuer, target.value
        return await self._looked(partial(sighting, kind=kind, issuer=issuer, value=value, iss=iss))

    async def _looked(self, work: Callable[[Connection], Awaitable[T]]) -> T | None:
        """What is nice to know, and holds nobody up."""
        try:
            return await self._store.look(work)
        except Unavailable:
            return None

    async def _waiting(self) -> int:
        try:
            return sum([await redis.xlen(redis_keys.events(shard)) for shard, redis in enumerate(self._shards)])
        except (RedisError, OSError):
            return 0

    async def _incomplete(self) -> bool:
        try:
            return not all([(await self._copy.status(shard)).complete for shard in self._copy.shards])
        except (RedisError, OSError):
            return False  # the receipt says it


def _named_by(decision: RecordedDecision) -> Named:
    facts = decision.facts or Facts()
    return Named(
        what="the decision",
        iss=decision.issuer,
        issuer=facts.issuer_name,
        token=decision.token_id,
        session=facts.session,
        user=decision.subject,
        client=decision.client,
    )


@asynccontextmanager
async def opened(settings: StoreSettings, issuers: tuple[Issuer, ...]) -> AsyncGenerator[Operations]:
    """Over the stores of the settings, and every shard of Redis that authorizers keep."""
    url, store = settings.redis_url.get_secret_value(), RevocationStore(settings.database_url, PATIENCE)
    async with connected(url, shards=await _shards(settings), seconds=PATIENCE) as clients:
        await store.start()
        try:
            yield Operations(store, clients, issuers, settings)
        finally:
            await store.stop()


async def _shards(settings: StoreSettings) -> int:
    """At least those of the settings: authorizers with more of them leave a marker in each."""
    shards, url = settings.redis_shards, settings.redis_url.get_secret_value()
    with suppress(RedisError, OSError):
        while shards < MAX_SHARDS:
            async with connect(url, timeout=PATIENCE, shard=shards) as redis:
                if not await redis.exists(redis_keys.complete(shards)):
                    break
            shards += 1
    return shards
