"""What administrators do about revocations, from whichever interface."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from msgspec import Struct

from ext_authz.errors import ConfigError, Unavailable
from ext_authz.identity.identity import MAX_TEXT, is_text
from ext_authz.ledger.queries import Sighting
from ext_authz.policy.model import Policy
from ext_authz.revocation.entry import Entry, Kind, Origin, Target
from ext_authz.revocation.operations import Operations, Receipt
from ext_authz.revocation.store import Filter
from ext_authz.tokens.model import Actor, NotDone, Why

_SHORTEST, _LONGEST = timedelta(minutes=1), timedelta(days=3650)
_LONGEST_REASON = 1000
_LONGEST_ACTOR = 200
"""As in the table."""
_USUAL = timedelta(days=30)
"""How long a revocation lasts, at least, whose lifetime nobody says."""


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
        _ensure_reason(reason)
        if lifetime is not None and not _SHORTEST <= lifetime <= _LONGEST:
            raise NotDone(Why.INVALID, f"a revocation is in force for 1 minute to {_LONGEST.days} days", "lifetime")
        entry = Entry(
            kind=target.kind,
            issuer=target.issuer,
            value=target.value,
            expires_at=datetime.now(UTC) + (lifetime or self._usual),
            reason=reason,
            actor=actor.name[:_LONGEST_ACTOR],
        )
        try:
            receipt = await self._operations.write(entry, origin=Origin(actor.via, actor.address))
        except ConfigError as refused:
            raise NotDone(Why.INVALID, str(refused), "value") from None
        return _everywhere(receipt), receipt.again

    async def lift(self, actor: Actor, target: Target, *, reason: str) -> Entry:
        """Accept again what was revoked by mistake."""
        _ensure_administrator(actor)
        _ensure_carried(target)
        _ensure_reason(reason)
        origin, who = Origin(actor.via, actor.address), actor.name[:_LONGEST_ACTOR]
        receipt = await self._operations.lift(target, actor=who, reason=reason, origin=origin)
        if receipt is None:
            raise NotDone(Why.NOT_FOUND, f"no revocation of {target} is in force")
        return _everywhere(receipt)

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


def _ensure_reason(reason: str) -> None:
    if len(reason) > _LONGEST_REASON or not (reason == "" or reason.isprintable()):
        raise NotDone(Why.INVALID, f"a reason is at most {_LONGEST_REASON} printable characters", "reason")


def _everywhere(receipt: Receipt) -> Entry:
    if not receipt.everywhere or receipt.entry is None:
        raise Unavailable("redis" if receipt.postgres else "postgres", receipt.sentence)
    return receipt.entry
