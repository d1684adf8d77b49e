"""A bound on how often one address may be refused before anybody is known: it keeps junk from buying signature checks.

Refusals are counted, never callers of whom nothing bad is known yet: many of those may come from one address at once,
behind a NAT, after a restart, or while an issuer's keys are fetched. Counted in this process by GCRA. Bounded: of the
addresses that were quiet longest, it forgets.
"""

from __future__ import annotations

import logging

from ext_authz.decision import Reason
from ext_authz.errors import Denied
from ext_authz.observability.metrics import FLOOD_REFUSED

logger = logging.getLogger(__name__)

MAX_ADDRESSES = 100_000
CODE = "flood"


class Rates:
    """`rate` per `window` seconds and key, `burst` at once. Times in us; a clock set back is harmless."""

    def __init__(self, rate: int, window: int, burst: int, *, most: int = MAX_ADDRESSES) -> None:
        self._interval = -(-window * 1_000_000 // rate)
        self._burst = self._interval * max(1, burst)
        # Theoretical arrival times, in two generations: when the young one is full it becomes the old one, and keys
        # not seen since the last exchange are forgotten. Forgetting one by one would need an order.
        self._young: dict[str, int] = {}
        self._old: dict[str, int] = {}
        self._most_young = most // 2

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def wait(self, key: str, now: int) -> int:
        """Seconds until one more fits; 0: now. Counts nothing."""
        arrival = self._arrival(key, now)
        wait = arrival + self._interval - now - self._burst
        if wait <= 0:
            return 0
        self._remember(key, arrival)  # a key that continues is not forgotten
        return -(-wait // 1_000_000)

    def count(self, key: str, now: int) -> None:
        """One more of this key."""
        self._remember(key, min(self._arrival(key, now) + self._interval, now + self._burst))

    def _arrival(self, key: str, now: int) -> int:
        arrival = self._young.get(key) or self._old.get(key, now)
        return min(max(arrival, now), now + self._burst)

    def _remember(self, key: str, arrival: int) -> None:
        if key not in self._young:
            self._make_room()
        self._young[key] = arrival

    def _make_room(self) -> None:
        if len(self._young) >= self._most_young:
            self._old, self._young = self._young, {}


class FloodGuard(Rates):
    """Of refusals, by address."""

    in_force = True
    """In metrics and log; False for a candidate policy and in simulations."""
    _refused = 0

    def check(self, address: str, now: int) -> None:
        """Refuse an address that has been refused too often; counts nothing.

        Raises:
            Denied: OVER_LIMIT, `flood`.
        """
        if seconds := self.wait(address, now):
            self._refuse(address, seconds)

    def _refuse(self, address: str, seconds: int) -> None:
        if self.in_force:
            self._report(address)
        detail = (
            f"too many requests from your address were refused: retry in {seconds} s, or with a token known to be good"
        )
        raise Denied(Reason.OVER_LIMIT, CODE, detail, retry_after=seconds)

    def _report(self, address: str) -> None:
        FLOOD_REFUSED.inc()
        self._refused += 1
        if self._refused & (self._refused - 1) == 0:  # ever more rarely: a flood must not become one of the log
            logger.warning("flood: refusing an address", extra={"address": address, "refused": self._refused})
