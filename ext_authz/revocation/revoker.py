"""The write path: Postgres first, then Redis, and the answer says who holds it."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct
from redis.exceptions import ConnectionError as RedisConnectionError

from ext_authz.errors import Unavailable
from ext_authz.revocation.change import Change
from ext_authz.revocation.copy import RevocationCopy
from ext_authz.revocation.entry import Entry, Kind, entry_id
from ext_authz.revocation.store import Recorded, RevocationStore


class Receipt(Struct, frozen=True):
    """Where a revocation, or its lifting, has arrived."""

    id: str
    postgres: bool
    redis: bool
    sentence: str
    """For people; names the store that does not hold it, and what follows from that."""
    recorded: Recorded | None = None
    """As it stands in Postgres now; of what is lifted, as it stood."""
    again: bool = False
    """It was in force before: `recorded` says who revoked it first, when and why."""

    @property
    def everywhere(self) -> bool:
        """In force (or out of force) for every check that begins after this answer."""
        return self.postgres and self.redis


class Revoker:
    """Revokes and lifts."""

    def __init__(self, store: RevocationStore, copy: RevocationCopy) -> None:
        self._store = store
        self._copy = copy

    async def revoke(self, entry: Entry) -> Receipt:
        """Never raises for a store that does not answer: read the receipt.

        Raises:
            ConfigError: there can be no such revocation.
        """
        name = entry_id(entry.kind, entry.issuer, entry.value)
        try:
            written = await self._store.revoke(entry)
        except Unavailable as failure:
            return Receipt(name, postgres=False, redis=False, sentence=_unknown(failure, "revoked"))
        missing = await self._copied(written.change)
        sentence = _sentence(missing, done="in force on every replica", meanwhile="a check may still let it pass")
        return Receipt(
            name,
            postgres=True,
            redis=not missing,
            sentence=sentence,
            recorded=written.recorded,
            again=written.again,
        )

    async def lift(self, kind: Kind, issuer: str, value: str, *, actor: str = "", reason: str = "") -> Receipt | None:
        """None when nothing of that name is in force."""
        name = entry_id(kind, issuer, value)
        try:
            written = await self._store.lift(kind, issuer, value, actor=actor, reason=reason)
        except Unavailable as failure:
            return Receipt(name, postgres=False, redis=False, sentence=_unknown(failure, "lifted"))
        if written is None:
            return None
        missing = await self._copied(written.change)
        sentence = _sentence(missing, done="lifted on every replica", meanwhile="checks still refuse it")
        return Receipt(name, postgres=True, redis=not missing, sentence=sentence, recorded=written.recorded)

    async def _copied(self, row: Change) -> Mapping[str, BaseException]:
        """What of Redis does not hold it now, and why."""
        missing = await self._copy.apply([row])
        if any(isinstance(failure, RedisConnectionError) for failure in missing.values()):
            # A kept connection to a process that has gone says nothing about its successor; to repeat is harmless.
            missing = await self._copy.apply([row])
        whole = len(self._copy.shards)
        return {f"redis shard {shard} of {whole}" if whole > 1 else "redis": why for shard, why in missing.items()}


def _sentence(missing: Mapping[str, BaseException], *, done: str, meanwhile: str) -> str:
    if not missing:
        return f"{done}: postgres and redis hold it"
    stores = ", ".join(f"{store} does not ({str(why) or 'no answer in time'})" for store, why in missing.items())
    return f"postgres holds it, {stores}: {meanwhile}, until an authorizer reaches redis and copies it from postgres"


def _unknown(failure: Unavailable, what: str) -> str:
    return f"not known to be {what}: postgres did not confirm it ({failure.detail}) and redis was not asked; repeat it"
