"""Limits counted in this process, as `settle.lua` counts them in Redis: while Redis is away, and for the policy tools.

The behaviour suite of the settlement holds both to the same answers.
"""

from __future__ import annotations

import math

from ext_authz.clock import Clock
from ext_authz.errors import Unavailable
from ext_authz.policy.model import Algorithm
from ext_authz.settlement.calendar import period_end
from ext_authz.settlement.model import Outcome, QuotaRequest, SettleResult
from ext_authz.settlement.sliding import SlidingWindow

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
        self._sliding: dict[str, SlidingWindow] = {}

    def __len__(self) -> int:
        return len(self._windows) + len(self._arrivals) + len(self._sliding)

    def take(self, quota_requests: tuple[QuotaRequest, ...]) -> SettleResult:
        """All or nothing, dry-run limits apart.

        Raises:
            Unavailable: there are too many counters already.
        """
        self._make_room(quota_requests)
        waits = [self._look(take, take.cost)[0] for take in quota_requests]
        refusals = [0 if take.dry_run else wait for take, wait in zip(quota_requests, waits, strict=True)]
        longest = max(refusals, default=0)
        if longest:
            left = [self._left(take) for take in quota_requests]
            retry_after = 0 if longest == math.inf else int(longest)
            return SettleResult(Outcome.LIMITED, refusals.index(longest), *_columns(left), retry_after)
        for take, wait in zip(quota_requests, waits, strict=True):
            if take.cost and not wait:
                self._keep(take, *self._look(take, take.cost)[1:])
        left = [
            self._left(take) if not wait else (-1, self._left(take)[1])
            for take, wait in zip(quota_requests, waits, strict=True)
        ]
        return SettleResult(Outcome.OK, -1, *_columns(left))

    def _make_room(self, quota_requests: tuple[QuotaRequest, ...]) -> None:
        if len(self) + len(quota_requests) <= self._size or all(self._counts(take.key) for take in quota_requests):
            return
        if self._clock.monotonic() - self._swept_at >= SWEEP_SECONDS:
            self._swept_at = self._clock.monotonic()
            now_us = self._now_us()
            self._windows = {key: kept for key, kept in self._windows.items() if kept[0] > now_us // 1000}
            self._arrivals = {key: arrival for key, arrival in self._arrivals.items() if arrival > now_us}
            self._sliding = {key: kept for key, kept in self._sliding.items() if kept.whole_at > now_us // 1000}
        if len(self) + len(quota_requests) > self._size:
            raise Unavailable("redis", f"{self._size} counters in this worker are too many to add another")

    def _counts(self, key: str) -> bool:
        return key in self._windows or key in self._arrivals or key in self._sliding

    def _look(self, take: QuotaRequest, cost: int) -> tuple[float, int, int]:
        """How long to wait in ms (0: it fits), and the state after: what counts and until when, or arrival time."""
        now_us = self._now_us()
        now = now_us // 1000
        if take.algorithm == Algorithm.GCRA:
            return self._look_at_gcra(take, cost, now_us)
        if take.algorithm == Algorithm.SLIDING_WINDOW:
            window = self._sliding.setdefault(take.key, SlidingWindow())
            wait = window.wait(now, take.limit, take.window_ms, cost)
            return (wait, window.total, window.whole_at) if wait else (0, window.total + cost, window.whole_at)
        by_calendar = take.algorithm == Algorithm.CALENDAR
        return self._look_at_window(
            take, cost, now, period_end(now, take.window_ms) if by_calendar else now + take.window_ms
        )

    def _look_at_window(self, take: QuotaRequest, cost: int, now: int, latest_end: int) -> tuple[float, int, int]:
        end, used = self._windows.get(take.key, (0, 0))
        if end > now:
            end = min(end, latest_end)
            self._windows[take.key] = (end, used)
        else:
            end, used = latest_end, 0
        if used + cost <= take.limit:
            return 0, used + cost, end
        return math.inf if cost > take.limit else end - now, used, end

    def _look_at_gcra(self, take: QuotaRequest, cost: int, now_us: int) -> tuple[float, int, int]:
        interval, burst = _interval_us(take), max(1, take.burst)
        full = now_us + burst * interval
        arrival = self._arrivals[take.key] = min(max(self._arrivals.get(take.key, 0), now_us), full)
        after = arrival + cost * interval
        if after <= full:
            return 0, after, 0
        return math.inf if cost > burst else -(-(after - full) // 1000), arrival, 0

    def _keep(self, take: QuotaRequest, state: int, end: int) -> None:
        if take.algorithm == Algorithm.GCRA:
            self._arrivals[take.key] = state
        elif take.algorithm == Algorithm.SLIDING_WINDOW:
            self._sliding[take.key].take(self._now_us() // 1000, take.window_ms, take.cost)
        else:
            self._windows[take.key] = (end, state)

    def _left(self, take: QuotaRequest) -> tuple[int, int]:
        """What remains, and in how many ms everything is back."""
        _, state, end = self._look(take, 0)
        now_us = self._now_us()
        if take.algorithm != Algorithm.GCRA:
            return max(0, take.limit - state), end - now_us // 1000 if state else 0
        free = now_us + max(1, take.burst) * _interval_us(take) - state
        return free // _interval_us(take), -(-(state - now_us) // 1000)

    def _now_us(self) -> int:
        return round(self._clock.now() * 1_000_000)


def _interval_us(take: QuotaRequest) -> int:
    return -(-take.window_ms * 1000 // take.limit)


def _columns(left: list[tuple[int, int]]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return tuple(count for count, _ in left), tuple(reset for _, reset in left)
