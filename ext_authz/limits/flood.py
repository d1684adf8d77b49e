"""A bound on what one address may ask before anybody is known: it keeps junk from buying signature checks.

Counted in this process by GCRA. Bounded: of the addresses that were quiet longest, it forgets.
"""

from __future__ import annotations

import logging

from ext_authz.decision import Reason
from ext_authz.errors import Denied
from ext_authz.observability.metrics import FLOOD_REFUSED

logger = logging.getLogger(__name__)

MAX_ADDRESSES = 100_000
CODE = "flood"


class FloodGuard:
    """`rate` per `window` seconds and address, `burst` at once. Times in us; a clock that is set back harms nobody."""

    def __init__(self, rate: int, window: int, burst: int, *, most: int = MAX_ADDRESSES) -> None:
        self._interval = -(-window * 1_000_000 // rate)
        self._burst = self._interval * max(1, burst)
        # Theoretical arrival times, in two generations: when the young one is full it becomes the old one, and
        # whoever was not seen since the last time is forgotten. Forgetting one by one would need an order.
        self._young: dict[str, int] = {}
        self._old: dict[str, int] = {}
        self._most_young = most // 2
        self._refused = 0

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def ensure_calm(self, address: str, now: int) -> None:
        """Count one request of that address.

        Raises:
            Denied: OVER_LIMIT, `flood`; then it was not counted.
        """
        full = now + self._burst
        arrival = self._young.get(address)
        if arrival is None:
            arrival = self._old.get(address, now)
            self._make_room()
        after = min(max(arrival, now), full) + self._interval
        if after <= full:
            self._young[address] = after
            return
        self._young[address] = after - self._interval
        self._refuse(address, after - full)

    def _make_room(self) -> None:
        if len(self._young) >= self._most_young:
            self._old, self._young = self._young, {}

    def _refuse(self, address: str, wait: int) -> None:
        FLOOD_REFUSED.inc()
        self._refused += 1
        if self._refused & (self._refused - 1) == 0:  # ever more rarely: a flood must not become one of the log
            logger.warning("flood: refusing an address", extra={"address": address, "refused": self._refused})
        seconds = -(-wait // 1_000_000)
        detail = f"too many requests without a token known to be good come from your address: retry in {seconds} s"
        raise Denied(Reason.OVER_LIMIT, CODE, detail, retry_after=seconds)
