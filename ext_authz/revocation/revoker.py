"""The write path: Postgres first, then Redis, and the answer says who holds it."""

from __future__ import annotations

from msgspec import Struct
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from ext_authz.errors import Unavailable
from ext_authz.revocation.change import Change
from ext_authz.revocation.copy import RevocationCopy
from ext_authz.revocation.entry import Entry, Kind, entry_id
from ext_authz.revocation.store import RevocationStore


class Receipt(Struct, frozen=True):
    """Where a revocation, or its lifting, has arrived."""

    id: str
    postgres: bool
    redis: bool
    sentence: str
    """For people; names the store that does not hold it, and what follows from that."""

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
            row = await self._store.revoke(entry)
        except Unavailable as failure:
            return Receipt(name, postgres=False, redis=False, sentence=_unknown(failure, "revoked"))
        return await self._copied(row, done="in force", meanwhile="a check may still let it pass")

    async def lift(self, kind: Kind, issuer: str, value: str, *, actor: str = "") -> Receipt | None:
        """None when nothing of that name is in force."""
        try:
            row = await self._store.lift(kind, issuer, value, actor=actor)
        except Unavailable as failure:
            name = entry_id(kind, issuer, value)
            return Receipt(name, postgres=False, redis=False, sentence=_unknown(failure, "lifted"))
        if row is None:
            return None
        return await self._copied(row, done="lifted", meanwhile="checks still refuse it")

    async def _copied(self, row: Change, *, done: str, meanwhile: str) -> Receipt:
        try:
            await self._apply(row)
        except (RedisError, OSError) as failure:
            sentence = (
                f"postgres holds it, redis does not ({failure}): {meanwhile}, "
                "until an authorizer reaches redis and copies it from postgres"
            )
            return Receipt(row.id, postgres=True, redis=False, sentence=sentence)
        return Receipt(row.id, postgres=True, redis=True, sentence=f"{done}: postgres and redis hold it")

    async def _apply(self, row: Change) -> None:
        try:
            await self._copy.apply([row])
        except RedisConnectionError:
            # A kept connection to a process that has gone says nothing about its successor; to repeat is harmless.
            await self._copy.apply([row])


def _unknown(failure: Unavailable, what: str) -> str:
    return f"not known to be {what}: postgres did not confirm it ({failure.detail}) and redis was not asked; repeat it"
