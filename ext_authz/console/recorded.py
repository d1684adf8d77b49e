"""What the ledger says about one owner, and about nobody else: calls by day and model, and refusals."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from uuid import UUID

from msgspec import Struct

from ext_authz.clock import Clock
from ext_authz.db.postgres import Pool
from ext_authz.decision import Reason
from ext_authz.ledger.event import StoredEvent
from ext_authz.ledger.queries import find_in_postgres, latest, usage_of
from ext_authz.ledger.selection import Selection
from ext_authz.policy.issuers import Issuer
from ext_authz.tokens.model import NotDone, Owner, Why

_WEEK = timedelta(days=7)
_CLOCKS_DIFFER = timedelta(minutes=5)


class Calls(Struct, frozen=True, order=True):
    """How often something was called."""

    what: str
    """A model, or a day; empty for calls that name no model."""
    allowed: int = 0
    refused: int = 0


class Recorded:
    """Raises Unavailable("postgres")."""

    def __init__(self, pool: Pool, issuers: tuple[Issuer, ...], clock: Clock) -> None:
        self._pool = pool
        self._urls = {issuer.name: issuer.issuer for issuer in issuers}
        self._clock = clock

    async def calls_of_grant(self, owner: Owner, client: str) -> list[Calls]:
        """In the last seven days, by model, the most first."""
        which = self._of(owner.issuer, owner.subject, _WEEK, client=client)
        return sorted(await self._counted(which, "model"), key=lambda each: -each.allowed - each.refused)

    async def by_day(self, owner: Owner, days: int) -> list[Calls]:
        """Of every day up to today, the earliest first."""
        found = await self._counted(self._of(owner.issuer, owner.subject, timedelta(days=days - 1)), "day")
        known = {calls.what: calls for calls in found}
        today = datetime.fromtimestamp(self._clock.now(), UTC).date()
        names = [(today - timedelta(days=back)).isoformat() for back in reversed(range(days))]
        return [known.get(name, Calls(name)) for name in names]

    async def by_model(self, owner: Owner, days: int) -> list[Calls]:
        """The most first."""
        found = await self._counted(self._of(owner.issuer, owner.subject, timedelta(days=days - 1)), "model")
        return sorted(found, key=lambda each: -each.allowed - each.refused)

    async def refusals(self, owner: Owner, limit: int) -> list[StoredEvent]:
        """The latest of the last seven days."""
        which = self._of(owner.issuer, owner.subject, _WEEK, reason="refused")
        return await self._pool.run(partial(latest, which=which, limit=limit))

    async def decision(self, owner: Owner, decision: UUID) -> StoredEvent:
        """
        Raises:
            NotDone: there is none, or it is somebody else's.
        """
        iss = self._iss(owner.issuer)
        found = await self._pool.run(partial(find_in_postgres, decision_id=decision))
        if found is None or (found.issuer, found.subject) != (iss, owner.subject):
            raise NotDone(Why.NOT_FOUND, "there is no such decision about you, or it is not in the ledger yet")
        return found

    def _iss(self, issuer: str) -> str:
        iss = self._urls.get(issuer)
        if not iss:
            raise NotDone(Why.NOT_FOUND, "the policy does not name the issuer of this owner any more")
        return iss

    def _of(self, issuer: str, subject: str, period: timedelta, **also: str) -> Selection:
        """Of this owner alone, by the exact issuer and subject: two people may have the same name. Whole days."""
        if not subject:  # would select everybody
            raise NotDone(Why.NOT_FOUND, "there is no such owner")
        now = datetime.fromtimestamp(self._clock.now(), UTC)
        first = (now - period).replace(hour=0, minute=0, second=0, microsecond=0)
        return Selection(first, now + _CLOCKS_DIFFER, issuer=self._iss(issuer), subject=subject, **also)

    async def _counted(self, which: Selection, by: str) -> list[Calls]:
        columns, rows = await self._pool.run(partial(usage_of, which=which, by=[by]))
        what, reason, count = (columns.index(name) for name in (by, "outcome", "count"))
        found: dict[str, Calls] = {}
        for row in rows:
            calls, allowed = found.get(row[what], Calls(row[what])), row[reason] == Reason.ALLOWED
            more = (row[count], 0) if allowed else (0, row[count])
            found[row[what]] = Calls(calls.what, calls.allowed + more[0], calls.refused + more[1])
        return list(found.values())
