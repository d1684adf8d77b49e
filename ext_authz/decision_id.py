"""Mints decision ids: UUID version 7 (RFC 9562 section 5.7), so that the ledger's primary key grows at its right edge.

Never taken from the caller: `x-request-id` survives Envoy as the client sent it; a forged one would merge two bills.
"""

from __future__ import annotations

import secrets

from ext_authz.clock import Clock

PLACEHOLDER = "00000000-0000-7000-8000-0000000d1c1d"
"""Stands in prepared bytes where the id of the day is put in; as long as every id."""

_COUNTER_BITS = 48


def timestamp(decision_id: str) -> int:
    """When it was minted, in whole seconds since the epoch: the time that the decision goes by."""
    return milliseconds(decision_id) // 1000


def milliseconds(decision_id: str) -> int:
    """The same in milliseconds."""
    return int(decision_id[:8] + decision_id[9:13], 16)


class DecisionIds:
    """One per process: time, 26 random bits of the process, and a counter with a random start."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._middle = f"7{secrets.randbits(12):03x}-{0x8000 | secrets.randbits(14):04x}"
        self._counter = secrets.randbits(_COUNTER_BITS)

    def mint(self) -> str:
        """A new id in its 36 character form."""
        self._counter = (self._counter + 1) & ((1 << _COUNTER_BITS) - 1)
        time = f"{int(self._clock.now() * 1000):012x}"
        return f"{time[:8]}-{time[8:]}-{self._middle}-{self._counter:012x}"
