"""From an entry of the ledger stream to a row of `usage_events`. What cannot become one is kept as it came."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple
from uuid import UUID

import msgspec

from ext_authz.decision import Reason
from ext_authz.ledger import facts
from ext_authz.ledger.event import UsageEvent, decode

COLUMNS = (
    "decision_id",
    "occurred_at",
    "issuer",
    "subject",
    "client",
    "token_id",
    "route",
    "model",
    "model_version",
    "method",
    "path",
    "reason",
    "code",
    "policy",
    "degraded",
    "facts",
)

Cell = UUID | float | str | None
Payload = tuple[Cell, ...]
"""What must be the same when an event comes twice: all but the time at which Redis took it, and the facts."""
PAYLOAD = (COLUMNS[0], *COLUMNS[2:-1])
_REASON, _CODE, _POLICY, _DEGRADED = map(PAYLOAD.index, ("reason", "code", "policy", "degraded"))

_AFTER_SETTLEMENT = frozenset({Reason.UNAVAILABLE.value, Reason.INTERNAL.value})

_OVERRIDES = {
    b"0": ("", ""),
    b"1": ("revoked", "revoked"),
    b"2": ("over_limit", "over_limit"),
    b"5": ("", "dry_run_over_limit"),
}
"""`settlement.model.Outcome` to reason and code, where the settlement found something about an "allowed" event."""
_REVOKED_BY = {b"0": "token", b"1": "session", b"2": "user", b"3": "client", b"4": "issuer"}
"""Place in `settlement.model.Ask.revocation` to `revocation.entry.Kind`."""


class StreamEntry(NamedTuple):
    """As Redis delivered it."""

    id: str
    fields: Mapping[bytes, bytes]

    @property
    def seconds(self) -> float:
        """When Redis took it."""
        return int(self.id.partition("-")[0]) / 1000

    @property
    def raw(self) -> bytes:
        return msgspec.msgpack.encode(dict(self.fields))


class Line(NamedTuple):
    """One row to be; `row` has the order of COLUMNS."""

    entry: StreamEntry
    decision_id: UUID
    row: tuple[Cell, ...]

    @property
    def payload(self) -> Payload:
        return (self.row[0], *self.row[2:-1])

    def without_facts(self) -> Line:
        return Line(self.entry, self.decision_id, (*self.row[:-1], None))


class Reject(NamedTuple):
    """An entry for `usage_rejects`, and why."""

    entry: StreamEntry
    reason: str


def parse(entry: StreamEntry) -> Line | Reject:
    """Never raises: whatever stands in the stream ends up in one table or the other."""
    try:
        return _line(entry)
    except KeyError as missing:
        return Reject(entry, f"no field e, or unknown outcome: {missing}")
    except Exception as wrong:  # noqa: BLE001 - no JSON, no text, too deep: nothing in there may stop the others
        return Reject(entry, f"not a usage event: {wrong}")


def _line(entry: StreamEntry) -> Line:
    event = decode(entry.fields[b"e"])
    override = _OVERRIDES[entry.fields[b"o"]]
    decision_id = UUID(event.decision_id)
    return Line(entry, decision_id, _row(decision_id, entry, event, *override))


def is_superseded(payload: Payload, by: Payload) -> bool:
    """Whether both are about one call, and only `by` says that it was answered otherwise than Redis settled it.

    With 503, or degraded: the settlement came too late or got lost on its way. With 500: a bug came after it.
    """
    same_call = payload[:_REASON] == by[:_REASON] and payload[_POLICY] == by[_POLICY]
    return same_call and not _is_not_as_settled(payload) and _is_not_as_settled(by)


def _is_not_as_settled(payload: Payload) -> bool:
    return payload[_REASON] in _AFTER_SETTLEMENT or payload[_DEGRADED] == "redis"


def _row(decision_id: UUID, entry: StreamEntry, event: UsageEvent, reason: str, code: str) -> tuple[Cell, ...]:
    return (
        decision_id,
        entry.seconds,
        event.issuer,
        event.subject,
        event.client,
        event.token_id,
        event.route,
        event.model,
        event.model_version,
        event.method,
        event.path,
        reason or event.reason,
        code or event.code,
        event.policy,
        event.degraded,
        _facts(
            bytes(event.facts),
            limited_by=facts.cut(_limited_by(entry) or event.limited_by),
            revoked_by=_revoked_by(entry) or event.revoked_by,
        ),
    )


def _limited_by(entry: StreamEntry) -> str:
    return entry.fields.get(b"l", b"").decode(errors="replace")


def _revoked_by(entry: StreamEntry) -> str:
    return _REVOKED_BY.get(entry.fields.get(b"r", b""), "")


def _facts(raw: bytes, **settled: str) -> str | None:
    """As they came, and what only the settlement knows."""
    for name, value in settled.items():
        if value and raw.endswith(b"}"):
            comma = b"" if raw == b"{}" else b","
            raw = raw[:-1] + comma + b'"%s":%s}' % (name.encode(), facts.encode(value))
    return raw.decode() or None
