"""Grants and their tokens are revoked here; and what administrators do about revocations, from whichever interface."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

from msgspec import Struct
from msgspec.structs import replace

from ext_authz.db.postgres import Connection
from ext_authz.errors import ConfigError
from ext_authz.identity.identity import MAX_TEXT, is_text
from ext_authz.ledger.queries import Sighting
from ext_authz.policy.model import Policy
from ext_authz.revocation.entry import Entry, Kind, Origin, Target
from ext_authz.revocation.operations import Operations
from ext_authz.revocation.store import Filter, Together
from ext_authz.tokens import audit, rows
from ext_authz.tokens.authority import not_found
from ext_authz.tokens.issue import ensure_version
from ext_authz.tokens.model import Actor, Grant, NotDone, State, Why

_SHORTEST, _LONGEST = timedelta(minutes=1), timedelta(days=3650)
LONGEST_REASON = 200
"""Of the revocation of a grant."""
_LONGEST_REASON = 1000
_LONGEST_ACTOR = 200
"""As in the table."""
_USUAL = timedelta(days=30)
"""How long a revocation lasts, at least, whose lifetime nobody says."""
_MARGIN = timedelta(days=1)
"""For which a revocation is kept longer than any token of its grant can live."""


class Revoking:
    """Of grants, as their `sid`, and of single tokens of them. In force for every check that begins after a method
    returns; each raises Unavailable for the store that does not hold it yet, and to repeat it is safe."""

    def __init__(self, operations: Operations, longest: timedelta, now: Callable[[], datetime]) -> None:
        """`longest`: lifetime of a token."""
        self._operations = operations
        self._longest = longest
        self._now = now

    async def grants(
        self, actor: Actor, held: Sequence[Grant], reason: str, version: int | None = None
    ) -> Sequence[Grant]:
        """Revoked and marked in one transaction."""
        marked: list[Grant] = []

        async def mark(connection: Connection) -> None:
            marked[:] = [await self._mark(connection, actor, grant, reason, version) for grant in held]

        entries = [self._entry(actor, Kind.SESSION, grant, str(grant.id), reason) for grant in held]
        await self._in_force(actor, entries, mark)
        return marked

    async def tokens(
        self, actor: Actor, grant: Grant, jtis: Sequence[str], reason: str, together: Together | None = None
    ) -> None:
        """`together`: what else the transaction writes."""
        entries = [self._entry(actor, Kind.TOKEN, grant, jti, reason) for jti in jtis]
        await self._in_force(actor, entries, together)

    def _entry(self, actor: Actor, kind: Kind, grant: Grant, value: str, reason: str) -> Entry:
        """Kept for longer than any token can live that it concerns."""
        expires_at = max(grant.expires_at, self._now() + self._longest) + _MARGIN
        who = actor.name[:_LONGEST_ACTOR]
        return Entry(kind, grant.owner.issuer, value, expires_at=expires_at, reason=reason, actor=who)

    async def _in_force(self, actor: Actor, entries: Sequence[Entry], together: Together | None) -> None:
        origin = Origin(actor.via, actor.address)
        (await self._operations.write(*entries, together=together, origin=origin)).confirmed()

    async def _mark(self, connection: Connection, actor: Actor, held: Grant, reason: str, version: int | None) -> Grant:
        """That it is revoked, by whom, and since when; who did it first stays."""
        now, owner = self._now(), held.owner
        await rows.entitled(connection, owner.issuer, owner.subject, locked=True)
        found = await rows.grant(connection, held.id, now, locked=True)
        if found is None:
            raise not_found()
        ensure_version(found, version)
        if found.state is State.REVOKED:
            return found
        await rows.change(connection, replace(found, revoked_at=now, revoked_by=actor.name))
        whose = {"name": found.name, "issuer": owner.issuer, "subject": owner.subject}
        await audit.record(connection, actor, "grant.revoked", f"grant:{found.id}", {**whose, "reason": reason})
        return await rows.grant(connection, held.id, now) or found


class RevocationPage(Struct, frozen=True):
    """Some revocations, the newest first."""

    entries: tuple[Entry, ...]
    cursor: str = ""
    """For the next page; empty: there is none."""


class Revocations:
    """Every method raises NotDone for who is no administrator, and Unavailable where a store does not
    answer, or does not hold the change: to repeat it is safe."""

    def __init__(self, operations: Operations, policy: Policy) -> None:
        self._operations = operations
        self._issuers = frozenset(issuer.name for issuer in policy.issuers)
        self._usual = max(_USUAL, timedelta(seconds=policy.longest_life))

    async def revoke(
        self, actor: Actor, target: Target, *, reason: str, lifetime: timedelta | None = None
    ) -> tuple[Entry, bool]:
        """In force on every replica when this returns. True: it was before, and keeps its reason and time.

        `lifetime`: None: until no token can be valid that it concerns, API tokens included.
        """
        self._ensure_known(actor, target)
        ensure_reason(reason, _LONGEST_REASON)
        if lifetime is not None and not _SHORTEST <= lifetime <= _LONGEST:
            raise NotDone(Why.INVALID, f"a revocation is in force for 1 minute to {_LONGEST.days} days", "lifetime")
        expires_at, who = datetime.now(UTC) + (lifetime or self._usual), actor.name[:_LONGEST_ACTOR]
        entry = target.entry(expires_at=expires_at, reason=reason, actor=who)
        try:
            receipt = await self._operations.write(entry, origin=Origin(actor.via, actor.address))
        except ConfigError as refused:
            raise NotDone(Why.INVALID, str(refused), "value") from None
        return receipt.confirmed(), receipt.again

    async def lift(self, actor: Actor, target: Target, *, reason: str) -> Entry:
        """Accept again what was revoked by mistake."""
        _ensure_administrator(actor)
        _ensure_carried(target)
        ensure_reason(reason, _LONGEST_REASON)
        origin, who = Origin(actor.via, actor.address), actor.name[:_LONGEST_ACTOR]
        receipt = await self._operations.lift(target, actor=who, reason=reason, origin=origin)
        if receipt is None:
            raise NotDone(Why.NOT_FOUND, f"no revocation of {target} is in force")
        return receipt.confirmed()

    async def listed(
        self,
        actor: Actor,
        *,
        kind: Kind | None = None,
        issuer: str = "",
        user: str = "",
        cursor: str = "",
        limit: int = 50,
    ) -> RevocationPage:
        """What is in force. `user`: by sub or name."""
        _ensure_administrator(actor)
        wanted = Filter(kind=kind, issuer=issuer, after=cursor, limit=limit + 1)
        found = await self._operations.listed(wanted, user)
        return RevocationPage(tuple(found[:limit]), found[limit - 1].id if len(found) > limit else "")

    async def preview(self, actor: Actor, target: Target) -> tuple[Sighting, bool]:
        """What a revocation would hit, and whether it is in force already."""
        self._ensure_known(actor, target)
        return await self._operations.preview(target)

    def _ensure_known(self, actor: Actor, target: Target) -> None:
        _ensure_administrator(actor)
        if target.issuer not in self._issuers:
            known = ", ".join(sorted(self._issuers))
            raise NotDone(
                Why.INVALID, f"issuer: the policy has no issuer {target.issuer!r}: write one of {known}", "issuer"
            )
        if (target.kind is Kind.ISSUER) != (target.value == ""):
            raise NotDone(Why.INVALID, "value: name what to revoke; an issuer is named by issuer alone", "value")
        _ensure_carried(target)


def _ensure_administrator(actor: Actor) -> None:
    if not actor.administrator:
        raise NotDone(
            Why.FORBIDDEN, "revocations are for administrators: the policy says who is one (tokens.administrators)"
        )


def _ensure_carried(target: Target) -> None:
    """That a token can carry it. Postgres could not even look for some of what callers name."""
    if not all(text == "" or is_text(text) for text in (target.issuer, target.value)):
        raise NotDone(Why.INVALID, f"value: what a token carries is 1 to {MAX_TEXT} printable characters", "value")


def ensure_reason(reason: str, longest: int) -> None:
    """Raises NotDone (INVALID)."""
    if len(reason) > longest or not reason.isprintable():
        raise NotDone(Why.INVALID, f"a reason is at most {longest} printable characters", "reason")
