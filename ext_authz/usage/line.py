"""From an entry of the ledger stream to a row of `usage_events`. What cannot become one is kept as it came."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple
from uuid import UUID

import msgspec

from ext_authz.decision import Reason
from ext_authz.usage.event import UsageEvent, decode

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
)

Payload = tuple[UUID | float | str, ...]
"""What must be the same when an event comes twice: all of COLUMNS but the time at which Redis took it."""
_REASON = COLUMNS.index("reason") - 1
_CODE = COLUMNS.index("code") - 1

_OVERRIDES = {b"0": "", b"1": "revoked", b"2": "over_limit"}
"""`settlement.model.Outcome` to what the settlement found against an event that came as "allowed"."""


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
    row: tuple[UUID | float | str, ...]

    @property
    def payload(self) -> Payload:
        return (self.row[0], *self.row[2:])


class Reject(NamedTuple):
    """An entry for `usage_rejects`, and why."""

    entry: StreamEntry
    reason: str


def parse(entry: StreamEntry) -> Line | Reject:
    """Never raises: whatever stands in the stream ends up in one table or the other."""
    try:
        event = decode(entry.fields[b"e"])
        override = _OVERRIDES[entry.fields[b"o"]]
        decision_id = UUID(event.decision_id)
    except KeyError as missing:
        return Reject(entry, f"no field e, or unknown outcome: {missing}")
    except ValueError as wrong:
        return Reject(entry, f"not a usage event: {wrong}")
    return Line(entry, _row(decision_id, entry.seconds, event, override))


def is_superseded(payload: Payload, by: Payload) -> bool:
    """Whether both are about one call, and only `by` says that it was answered with 503.

    Then Redis had settled the call, but its answer came too late or got lost, and the caller never had it.
    """
    same_call = payload[:_REASON] == by[:_REASON] and payload[_CODE + 1 :] == by[_CODE + 1 :]
    return same_call and by[_REASON] == Reason.UNAVAILABLE != payload[_REASON]


def _row(decision_id: UUID, seconds: float, event: UsageEvent, override: str) -> tuple[UUID | float | str, ...]:
    return (
        decision_id,
        seconds,
        event.issuer,
        event.subject,
        event.client,
        event.token_id,
        event.route,
        event.model,
        event.model_version,
        event.method,
        event.path,
        override or event.reason,
        override or event.code,
        event.policy,
    )
