"""Limits counted in this process, as `settle.lua` counts them in Redis: while Redis is away, and for the policy tools.

The behaviour suite of the settlement holds both to the same answers.
"""

from __future__ import annotations

import math

from ext_authz.clock import Clock
from ext_authz.errors import Unavailable
from ext_authz.limits.limit import Algorithm
from ext_authz.settlement.model import Answer, Outcome, Take

SWEEP_SECONDS = 1.0
"""Shortest time between two looks for counters that have run out."""


class LocalLimits:
    """Counters of one process. At most `size` of them: who would need one more is not let in uncounted."""

    def __init__(self, clock: Clock, *, size: float = math.inf) -> None:
        self._clock = clock
        self._size = size
        self._swept_at = -math.inf
        self._windows: dict[str, tuple[int, int]] = {}
        self._arrivals: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._windows) + len(self._arrivals)

    def take(self, takes: tuple[Take, ...]) -> Answer:
        """All or nothing.

        Raises:
            Unavailable: there are too many counters already.
        """
        self._make_room(takes)
        waits = [self._look(take, take.cost)[0] for take in takes]
        longest = max(waits, default=0)
        if not longest:
            for take in takes:
                self._keep(take, *self._look(take, take.cost)[1:])
        left = [self._left(take) for take in takes]
        remaining, reset_ms = tuple(count for count, _ in left), tuple(reset for _, reset in left)
        if not longest:
            return Answer(Outcome.OK, -1, remaining, reset_ms)
        retry_after = 0 if longest == math.inf else int(longest)
        return Answer(Outcome.LIMITED, waits.index(longest), remaining, reset_ms, retry_after)

    def _make_room(self, takes: tuple[Take, ...]) -> None:
        if len(self) + len(takes) <= self._size or all(self._counts(take.key) for take in takes):
            return
        if self._clock.monotonic() - self._swept_at >= SWEEP_SECONDS:
            self._swept_at = self._clock.monotonic()
            now_us = self._now_us()
            self._windows = {key: kept for key, kept in self._windows.items() if kept[0] > now_us // 1000}
            self._arrivals = {key: arrival for key, arrival in self._arrivals.items() if arrival > now_us}
        if len(self) + len(takes) > self._size:
            raise Unavailable("redis", f"{self._size} counters in this worker are too many to add another")

    def _counts(self, key: str) -> bool:
        return key in self._windows or key in self._arrivals

    def _look(self, take: Take, cost: int) -> tuple[float, int, int]:
        """How long to wait in ms (0: it fits), and the state after: hits and end of the window, or arrival time."""
        now_us = self._now_us()
        now = now_us // 1000
        if take.algorithm == Algorithm.FIXED_WINDOW:
            end, used = self._windows.get(take.key, (0, 0))
            if end > now:
                end = min(end, now + take.window_ms)
                self._windows[take.key] = (end, used)
            else:
                end, used = now + take.window_ms, 0
            if used + cost <= take.limit:
                return 0, used + cost, end
            return math.inf if cost > take.limit else end - now, used, end
        interval, burst = _interval_us(take), max(1, take.burst)
        full = now_us + burst * interval
        arrival = self._arrivals[take.key] = min(max(self._arrivals.get(take.key, 0), now_us), full)
        after = arrival + cost * interval
        if after <= full:
            return 0, after, 0
        return math.inf if cost > burst else -(-(after - full) // 1000), arrival, 0

    def _keep(self, take: Take, state: int, end: int) -> None:
        if take.algorithm == Algorithm.FIXED_WINDOW:
            self._windows[take.key] = (end, state)
        else:
            self._arrivals[take.key] = state

    def _left(self, take: Take) -> tuple[int, int]:
        """What remains, and in how many ms everything is back."""
        _, state, end = self._look(take, 0)
        now_us = self._now_us()
        if take.algorithm == Algorithm.FIXED_WINDOW:
            return max(0, take.limit - state), end - now_us // 1000 if state else 0
        free = now_us + max(1, take.burst) * _interval_us(take) - state
        return free // _interval_us(take), -(-(state - now_us) // 1000)

    def _now_us(self) -> int:
        return round(self._clock.now() * 1_000_000)


def _interval_us(take: Take) -> int:
    return -(-take.window_ms * 1000 // take.limit)
