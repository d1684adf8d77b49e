"""Revocations and their history, as lines and rows."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from msgspec import structs

from ext_authz.errors import escaped
from ext_authz.revocation.entry import Entry, Kind, Target

if TYPE_CHECKING:
    from ext_authz.ledger.queries import Sighting
    from ext_authz.revocation.operations import Receipt, Revoked
    from ext_authz.revocation.store import Change

_NOBODY = {
    Kind.TOKEN: "this token was not seen here",
    Kind.SESSION: "no token of this session was seen here",
    Kind.USER: "no token with this subject was seen here",
    Kind.CLIENT: "no token of this client was seen here",
    Kind.ISSUER: "no token of this issuer was seen here",
}
_UNITS = (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1))


def revoked(result: Revoked, now: datetime) -> Iterator[str]:
    """What holds it, what was there before, what it hits."""
    yield f"{result.target}: {result.receipt.sentence}"
    if result.receipt.again and result.receipt.entry:
        yield f"  revoked before, {_first(result.receipt.entry)}; that stays, this is in the history"
    if result.seen and result.seen.last_at:
        yield f"  {_hits(result.seen, result.seen.last_at, now)}"


def believed(doubt: str) -> str:
    """Whether a token can be relied on."""
    if doubt:
        return f"not verified: {doubt}; the claims of the token are taken as they are"
    return "verified: the token is one of its issuer's"


def warnings(result: Revoked) -> Iterator[str]:
    """What an operator should know before relying on it."""
    if result.incomplete:
        yield (
            "this redis is not known to hold every revocation: authorizers that use it ask postgres meanwhile; "
            "if none uses it, TOLLGATE_REDIS_URL names the wrong one"
        )
    if result.receipt.postgres and result.seen is None:
        yield "it is unknown whether any token is affected: the ledger did not answer in time"
    if result.seen and result.seen.last_at is None:
        state = "in force, but " if result.receipt.everywhere else ""
        on_the_way = f" ({result.waiting} decisions are not in the ledger yet)" if result.waiting else ""
        yield f"{state}{_NOBODY[result.target.kind]} in the last 7 days{on_the_way}{_meant(result)}"


def _meant(result: Revoked) -> str:
    if result.target.kind is not Kind.USER:
        return ""
    if result.alias:
        name, subject = escaped(result.alias.username), escaped(result.alias.subject)
        return f": {name} is the name of {subject}: tollgate revoke user --username {name}"
    return ": did you mean the username? use --username"


def lifted(target: Target, receipt: Receipt | None) -> Iterator[str]:
    """What was lifted, and who had revoked it."""
    yield f"{target}: {receipt.sentence if receipt else 'no such revocation is in force'}"
    if receipt and receipt.entry:
        yield f"  it was revoked {_first(receipt.entry)}"


ENTRY = ("revoked_at", "kind", "issuer", "value", "not_before", "expires_at", "by", "reason", "id")
ENTRY_TABLE = ("revoked_at", "kind", "value", "issuer", "expires_at", "by", "reason")
CHANGE_TABLE = ("at", "change", "kind", "value", "issuer", "not_before", "expires_at", "actor", "role", "reason")


def entry_row(entry: Entry) -> dict[str, object]:
    """One revocation in force: the columns of ENTRY."""
    fields = structs.asdict(entry)
    return {**fields, "revoked_at": entry.created_at, "kind": entry.kind.label, "by": entry.actor, "id": entry.id}


def change(past: Change) -> str:
    """One change to a revocation."""
    target = Target(Kind.labelled(past.kind), past.issuer, past.value)
    role = f" (as {escaped(past.role)} in postgres)" if past.role not in ("", past.actor) else ""
    why = f": {escaped(past.reason)}" if past.reason else ""
    what = "; ".join(_changed(past))
    return f"{_time(past.at)}  {past.change}  {target}  {what}, by {escaped(past.actor)}{role}{why}"


def _changed(past: Change) -> Iterator[str]:
    """What it came to, and what it had been where that was something else."""
    if past.not_before:
        yield f"issued until {_from_to(past.not_before_then, past.not_before)}"
    yield f"kept until {_from_to(past.expires_at_then, past.expires_at)}"


def _from_to(before: datetime | None, after: datetime) -> str:
    return _time(after) if before is None or before == after else f"{_time(before)} -> {_time(after)}"


def _first(entry: Entry) -> str:
    why = f": {escaped(entry.reason)}" if entry.reason else ""
    return f"{_time(entry.created_at)} by {escaped(entry.actor)}{why}"


def _hits(seen: Sighting, last_at: datetime, now: datetime) -> str:
    last = f"{_ago(now - last_at)} ago by client {escaped(seen.client) or '-'}"
    if not seen.lately:
        return f"affects no token seen in the last 24 hours; the last one was seen {last}"
    tokens = "1 token" if seen.lately == 1 else f"{seen.lately} tokens"
    return f"affects {tokens} seen in the last 24 hours, last {last}"


def _ago(age: timedelta) -> str:
    seconds = max(0, int(age.total_seconds()))
    return next((f"{seconds // size} {unit}" for unit, size in _UNITS if seconds >= size), "0 s")


def _time(at: datetime | None) -> str:
    return "-" if at is None else at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
