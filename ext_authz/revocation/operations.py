"""What an operator does about revocations, with typed results; `commands.py` only prints them.

A revocation is written to Postgres first, then to Redis, and the receipt says which of them holds it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TypeVar

from msgspec import Struct
from msgspec.structs import replace
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from ext_authz.db import redis_keys
from ext_authz.db.causes import redis_cause
from ext_authz.db.postgres import Connection
from ext_authz.db.redis import connect
from ext_authz.errors import Unavailable
from ext_authz.ledger.event import DecisionRecord, StoredEvent
from ext_authz.ledger.queries import Sighting, User, find_event, issuers_seen, sighting, users_named
from ext_authz.policy.issuers import Issuer
from ext_authz.revocation.copy import RevocationCopy
from ext_authz.revocation.entry import NEVER, UNSAID, Entry, Kind, Origin, Target, revoked_until
from ext_authz.revocation.feed import chunk_of, named
from ext_authz.revocation.shards import Shards
from ext_authz.revocation.store import Change, Filter, RevocationStore, Together, Written, history
from ext_authz.revocation.target import Issuers, Named, Wanted, target_of
from ext_authz.settings import StoreSettings

T = TypeVar("T")

PATIENCE = 5.0
"""Seconds an operator waits for each store."""


class Receipt(Struct, frozen=True):
    """Which stores hold a revocation, or its lifting."""

    postgres: bool
    redis: bool
    sentence: str
    """For people; names the store that does not hold it, and what follows from that."""
    entry: Entry | None = None
    """As it is in Postgres now; of what was lifted, as it was."""
    again: bool = False
    """It was in force before: `entry` has who revoked it first, when and why."""

    @property
    def everywhere(self) -> bool:
        """In force (or out of force) for every check that begins after this answer."""
        return self.postgres and self.redis

    def confirmed(self) -> Entry:
        """`entry`. Raises Unavailable for the store that does not hold it."""
        if not self.everywhere or self.entry is None:
            raise Unavailable("redis" if self.postgres else "postgres", self.sentence)
        return self.entry


async def _cause_of_missing(copy: RevocationCopy, chunk: str) -> str:
    """Write a chunk; empty where that succeeds."""
    try:
        try:
            await copy.write(chunk)
        except RedisConnectionError:
            # A kept connection to a process that has ended says nothing about its successor; to repeat is harmless.
            await copy.write(chunk)
    except (RedisError, OSError) as failure:
        return redis_cause(failure)
    return ""


async def _causes(copies: Sequence[RevocationCopy], chunk: str) -> list[str]:
    return await asyncio.gather(*(_cause_of_missing(copy, chunk) for copy in copies))


def _unconfirmed(what: str, failure: Unavailable) -> Receipt:
    why = f"postgres did not confirm it ({failure.detail}) and redis was not asked; repeat it"
    return Receipt(postgres=False, redis=False, sentence=f"not known to be {what}: {why}")


class Revoked(Struct, frozen=True):
    """The result of a revocation."""

    target: Target
    receipt: Receipt
    seen: Sighting | None = None
    """Which tokens it hits; None: the ledger did not answer."""
    alias: User | None = None
    """The subject was not seen, but a user with it as a name."""
    waiting: int = 0
    """Decisions that are not in the ledger yet."""
    incomplete: bool = False
    """This Redis is not known to hold every revocation: authorizers that use it ask Postgres, or none uses it."""


class Operations:
    """Raises ConfigError for what cannot be, TollgateError and Unavailable where something cannot be looked up."""

    def __init__(
        self, store: RevocationStore, shards: Shards, issuers: tuple[Issuer, ...], settings: StoreSettings
    ) -> None:
        """`issuers`: of the policy; none where there is no policy at hand."""
        self._store = store
        self._shards = shards
        self._copies: list[RevocationCopy] = []
        self._issuers = issuers
        self._settings = settings
        self.read = store.read
        """Run a query of the caller's over the same connections, with the same timeout."""

    async def target(self, wanted: Wanted) -> Target:
        """Look up what is to be revoked."""
        named, users = wanted.named, None
        if wanted.decision:
            named = _named_by(await find_event(wanted.decision, self._settings))
        if wanted.username:
            users = await self._store.read(partial(users_named, username=wanted.username))
        return target_of(wanted, await self._known_issuers(wanted), named=named, users=users)

    async def revoke(
        self, target: Target, *, actor: str, reason: str, lifetime: timedelta, origin: Origin = UNSAID
    ) -> Revoked:
        """In force first; what it hits is looked up afterwards."""
        entry = target.entry(expires_at=datetime.now(UTC) + lifetime, reason=reason, actor=actor)
        receipt = await self.write(entry, origin=origin)
        if not receipt.postgres:
            return Revoked(target, receipt)
        seen, alias = await self._optional(self._seen(target)), None
        if seen is not None and seen.last_at is None and target.kind is Kind.USER:
            users = await self._optional(partial(users_named, username=target.value))
            alias = next((user for user in users or () if user.issuer == target.issuer), None)
        return Revoked(target, receipt, seen, alias, await self._waiting(), await self._incomplete())

    async def write(self, *entries: Entry, together: Together | None = None, origin: Origin = UNSAID) -> Receipt:
        """All in one transaction, with what `together` writes. Never raises for a store that does not answer: read
        the receipt, which has the last entry.

        Raises:
            ConfigError: there can be no such revocation.
        """
        try:
            written = await self._store.revoke_all(entries, together, origin)
        except Unavailable as failure:
            return _unconfirmed("revoked", failure)
        done, meanwhile = "in force on every replica", "a check may still let it pass"
        return await self._copied(written, done=done, meanwhile=meanwhile)

    async def lift(
        self, target: Target, *, actor: str = "", reason: str = "", origin: Origin = UNSAID
    ) -> Receipt | None:
        """None when no such revocation is in force; as `write` otherwise."""
        try:
            written = await self._store.lift(target, actor=actor, reason=reason, origin=origin)
        except Unavailable as failure:
            return _unconfirmed("lifted", failure)
        if written is None:
            return None
        return await self._copied([written], done="lifted on every replica", meanwhile="checks still refuse it")

    async def _copied(self, written: Sequence[Written], *, done: str, meanwhile: str) -> Receipt:
        chunk = chunk_of(each.row for each in written)
        copies = self._known()
        causes, _ = await asyncio.gather(_causes(copies, chunk), self._shards.look())
        came = self._known()[len(copies) :]
        copies, causes = [*copies, *came], [*causes, *await _causes(came, chunk)]
        shards = len(copies)
        names = [f"redis shard {copy.shard} of {shards}" if shards > 1 else "redis" for copy in copies]
        missing = ", ".join(f"{name} does not ({why})" for name, why in zip(names, causes, strict=True) if why)
        sentence = f"{done}: postgres and redis hold it"
        if missing:
            later = "until an authorizer reaches redis and copies it from postgres"
            sentence = f"postgres holds it, {missing}: {meanwhile}, {later}"
        return Receipt(
            postgres=True,
            redis=not missing,
            sentence=sentence,
            entry=written[-1].entry,
            again=all(each.again for each in written),
        )

    def _known(self) -> list[RevocationCopy]:
        """Of every shard that is known now."""
        for shard in range(len(self._copies), len(self._shards.clients)):
            self._copies.append(RevocationCopy(self._shards.clients[shard], shard))
        return list(self._copies)

    async def preview(self, target: Target) -> tuple[Sighting, bool]:
        """What a revocation would hit, and whether it is in force already."""
        seen = await self._store.read(self._seen(target))
        held = await self._store.read(partial(named, ids=[target.id]))
        return seen, any(revoked_until(row.held) != NEVER for row in held)

    async def listed(self, wanted: Filter, user: str = "") -> list[Entry]:
        """`user`: only this subject, and users of this name."""
        if user:
            named = await self._store.read(partial(users_named, username=user))
            wanted = replace(wanted, users=[user, *(each.subject for each in named)])
        return await self._store.entries(wanted)

    async def history(self, value: str | None, kind: Kind | None, issuer: str, limit: int) -> list[Change]:
        """The latest changes, the oldest first; of every revocation where no value is given."""
        return await self._store.read(partial(history, value=value, kind=kind, issuer=issuer, limit=limit))

    async def _known_issuers(self, wanted: Wanted) -> Issuers:
        """Of the policy; without one, those whose tokens were seen."""
        if self._issuers:
            return Issuers({issuer.name: issuer.issuer for issuer in self._issuers}, "the policy")
        if wanted.force and wanted.issuer:
            return Issuers()
        return Issuers(await self._store.read(issuers_seen))

    def _seen(self, target: Target) -> Callable[[Connection], Awaitable[Sighting]]:
        """The URL of an issuer is empty if the policy has none of its name."""
        iss = next((issuer.issuer for issuer in self._issuers if issuer.name == target.issuer), "")
        return partial(sighting, kind=target.kind.label, issuer=target.issuer, value=target.value, iss=iss)

    async def _optional(self, work: Callable[[Connection], Awaitable[T]]) -> T | None:
        """None where Postgres does not answer: the caller can do without."""
        try:
            return await self._store.read(work)
        except Unavailable:
            return None

    async def _waiting(self) -> int:
        try:
            return sum([await redis.xlen(redis_keys.events(shard)) for shard, redis in enumerate(self._shards.clients)])
        except (RedisError, OSError):
            return 0

    async def _incomplete(self) -> bool:
        try:
            return not all([(await copy.status()).complete for copy in self._known()])
        except (RedisError, OSError):
            return False  # the receipt has it


def _named_by(decision: StoredEvent) -> Named:
    facts = decision.record or DecisionRecord()
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
    clients = [connect(url, timeout=PATIENCE, shard=shard) for shard in range(settings.redis_shards)]
    shards = Shards(url, clients, PATIENCE)
    await shards.look()
    await store.start()
    try:
        yield Operations(store, shards, issuers, settings)
    finally:
        await store.stop()
        await shards.close()
