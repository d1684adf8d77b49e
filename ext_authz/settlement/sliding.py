"""A sliding window that remembers little: hits are kept in slices, and never is more counted than happened too late.

A slice opens with a hit, takes in what comes within 1/32 of a window, and counts until a whole window after its last
hit. So no window of that length, wherever it begins, holds more than the limit; a hit counts 1/32 too long at most.
`settlement/sliding.lua` does the same in Redis.
"""

from __future__ import annotations

import math
from collections import deque
from itertools import accumulate

_SLICES = 32


class SlidingWindow:
    """One counter. Times in ms, from a clock that may be set back: what lies in the future happened now."""

    __slots__ = ("_first", "_slices", "total", "whole_at")

    def __init__(self) -> None:
        self.total = 0
        """What counts, as of the last look."""
        self.whole_at = 0
        """When none of it will count any more."""
        self._first = 0
        self._slices: deque[tuple[int, int]] = deque()
        """When the last hit of each came, and how much they took."""

    def wait(self, now: int, limit: int, window: int, cost: int) -> float:
        """How long until so much fits, 0: now, infinite: never. Forgets what no longer counts."""
        self._forget(now, window)
        excess = self.total + cost - limit
        if excess <= 0:
            return 0
        if cost > limit:
            return math.inf
        freed = accumulate(used for _, used in self._slices)
        enough = next(index for index, back in enumerate(freed) if back >= excess)
        return self._slices[enough][0] + window - now

    def take(self, now: int, window: int, cost: int) -> None:
        if self._slices and now - self._first < window // _SLICES:
            self._slices[-1] = (now, self._slices[-1][1] + cost)
        else:
            self._first = now
            self._slices.append((now, cost))
        self.total += cost
        self.whole_at = now + window

    def _forget(self, now: int, window: int) -> None:
        self._first = min(self._first, now)
        if self._slices and self._slices[-1][0] > now:
            self._slices = deque((min(last, now), used) for last, used in self._slices)
        while self._slices and self._slices[0][0] + window <= now:
            self.total -= self._slices.popleft()[1]
        self.whole_at = self._slices[-1][0] + window if self._slices else 0
