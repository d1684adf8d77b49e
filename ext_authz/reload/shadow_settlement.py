"""Phase 4 for a candidate policy: the same limits in counters of their own."""

from __future__ import annotations

import asyncio

from msgspec.structs import replace

from ext_authz.settlement.model import NO_IDS, Outcome, Settlement, SettleRequest, SettleResult

_PREFIX = "~shadow:"
"""Before the name of a limit in the key of its counter; no limit has such a name."""
_TOGETHER = 0.02
"""Seconds that the candidate's limits wait for each other."""


class ShadowSettlement(Settlement):
    """Takes from counters that no real check uses; nothing is revoked and nothing written down.

    Waits a moment, so that many go to Redis at once: one by one they would keep real checks waiting for their turn.
    """

    def __init__(self, settlement: Settlement, *, counts: bool) -> None:
        self._settlement = settlement
        self._counts = counts
        self._departure: asyncio.Event | None = None

    async def settle(self, ask: SettleRequest) -> SettleResult:
        if not ask.quota_requests or not self._counts:
            nothing = (0,) * len(ask.quota_requests)
            return SettleResult(Outcome.OK, -1, nothing, nothing)
        quota_requests = tuple([replace(take, key=_PREFIX + take.key) for take in ask.quota_requests])
        await self._next_departure().wait()
        return await self._settlement.settle(SettleRequest(NO_IDS, 0, quota_requests, b""))

    def record(self, event: bytes) -> None:
        """The ledger holds what was decided, not what would have been."""

    def _next_departure(self) -> asyncio.Event:
        if self._departure is None:
            self._departure = asyncio.Event()
            asyncio.get_running_loop().call_later(_TOGETHER, self._depart)
        return self._departure

    def _depart(self) -> None:
        if self._departure is not None:
            self._departure.set()
            self._departure = None
