"""Limits counted in this process, as `settle.lua` and its parts count them in Redis.

Used while Redis is away, by the policy tools, and in tests. The behaviour suite of the settlement, and cases generated
at random, hold both to the same answers.
"""

from __future__ import annotations

import math
from calendar import monthrange
from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import accumulate

from ext_authz.clock import Clock
from ext_authz.errors import Unavailable
from ext_authz.policy.model import Algorithm
from ext_authz.revocation.entry import NEVER, Kind, revoked_by
from ext_authz.settlement.model import Outcome, QuotaRequest, RevokedInPostgres, Settlement, SettleRequest, SettleResult

_DAY = 86_400_000
_WEEK = 7 * _DAY
_MONTH = 31 * _DAY
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def period_end(now: int, period: int) -> int:
    """All in ms. A period is named by its longest length; up to a day all are equally long, weeks begin on Monday. A
    month that begins on another day than the 1st has 1 ms more for each day between them."""
    if period <= _DAY:
        return now - now % period + period
    today = (_EPOCH + timedelta(milliseconds=now)).replace(hour=0, minute=0, second=0, microsecond=0)
    if period == _WEEK:
        end = today + timedelta(days=7 - today.weekday())
    elif period <= _MONTH + 30:
        end = _month_end(today, period - _MONTH + 1)
    else:
        end = today.replace(year=today.year + 1, month=1, day=1)
    return (end - _EPOCH) // timedelta(milliseconds=1)


def _month_end(today: datetime, day: int) -> datetime:
    """Of the month that begins on this day, or on the last one of a month that is too short."""
    end = _on_day(today, day)
    return end if end > today else _on_day(today.replace(day=1) + timedelta(days=31), day)


def _on_day(month: datetime, day: int) -> datetime:
    return month.replace(day=min(day, monthrange(month.year, month.month)[1]))


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


SWEEP_SECONDS = 1.0
"""Shortest time between two sweeps of counters that have run out."""


class LocalLimits:
    """Counters of one process, at most `size` of them: a check that would need one more is refused."""

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
        self._make_room([quota for quota in quota_requests if quota.cost])
        waits = [self._try(quota, quota.cost)[0] for quota in quota_requests]
        refusals = [0 if quota.dry_run else wait for quota, wait in zip(quota_requests, waits, strict=True)]
        longest = max(refusals, default=0)
        if longest:
            left = [self._left(quota) for quota in quota_requests]
            retry_after = 0 if longest == math.inf else int(longest)
            return SettleResult(Outcome.LIMITED, refusals.index(longest), *_columns(left), retry_after)
        for quota, wait in zip(quota_requests, waits, strict=True):
            if quota.cost and not wait:
                self._keep(quota, *self._try(quota, quota.cost)[1:])
        left = [
            self._left(quota) if not wait else (-1, self._left(quota)[1])
            for quota, wait in zip(quota_requests, waits, strict=True)
        ]
        return SettleResult(Outcome.OK, -1, *_columns(left))

    def _make_room(self, quota_requests: Sequence[QuotaRequest]) -> None:
        if len(self) + len(quota_requests) <= self._size or all(self._counts(quota.key) for quota in quota_requests):
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

    def _try(self, quota: QuotaRequest, cost: int) -> tuple[float, int, int]:
        """How long to wait in ms (0: it fits), and the state after: what counts and until when, or arrival time."""
        now_us = self._now_us()
        now = now_us // 1000
        if quota.algorithm == Algorithm.GCRA:
            return self._try_gcra(quota, cost, now_us)
        if quota.algorithm == Algorithm.SLIDING_WINDOW:
            window = self._sliding.get(quota.key) or SlidingWindow()
            wait = window.wait(now, quota.limit, quota.window_ms, cost)
            return (wait, window.total, window.whole_at) if wait else (0, window.total + cost, window.whole_at)
        by_calendar = quota.algorithm == Algorithm.CALENDAR
        return self._try_window(
            quota, cost, now, period_end(now, quota.window_ms) if by_calendar else now + quota.window_ms
        )

    def _try_window(self, quota: QuotaRequest, cost: int, now: int, latest_end: int) -> tuple[float, int, int]:
        end, used = self._windows.get(quota.key, (0, 0))
        if end > now:
            end = min(end, latest_end)
            self._windows[quota.key] = (end, used)
        else:
            end, used = latest_end, 0
        if used + cost <= quota.limit:
            return 0, used + cost, end
        return math.inf if cost > quota.limit else end - now, used, end

    def _try_gcra(self, quota: QuotaRequest, cost: int, now_us: int) -> tuple[float, int, int]:
        interval, burst = _interval_us(quota), max(1, quota.burst)
        full = now_us + burst * interval
        arrival = min(max(self._arrivals.get(quota.key, 0), now_us), full)
        if quota.key in self._arrivals:
            self._arrivals[quota.key] = arrival
        after = arrival + cost * interval
        if after <= full:
            return 0, after, 0
        return math.inf if cost > burst else -(-(after - full) // 1000), arrival, 0

    def _keep(self, quota: QuotaRequest, state: int, end: int) -> None:
        if quota.algorithm == Algorithm.GCRA:
            self._arrivals[quota.key] = state
        elif quota.algorithm == Algorithm.SLIDING_WINDOW:
            self._sliding.setdefault(quota.key, SlidingWindow()).take(
                self._now_us() // 1000, quota.window_ms, quota.cost
            )
        else:
            self._windows[quota.key] = (end, state)

    def _left(self, quota: QuotaRequest) -> tuple[int, int]:
        """What remains, and in how many ms everything is back."""
        _, state, end = self._try(quota, 0)
        now_us = self._now_us()
        if quota.algorithm != Algorithm.GCRA:
            return max(0, quota.limit - state), end - now_us // 1000 if state else 0
        free = now_us + max(1, quota.burst) * _interval_us(quota) - state
        return free // _interval_us(quota), -(-(state - now_us) // 1000)

    def _now_us(self) -> int:
        return round(self._clock.now() * 1_000_000)


def _interval_us(quota: QuotaRequest) -> int:
    return -(-quota.window_ms * 1000 // quota.limit)


def _columns(left: list[tuple[int, int]]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return tuple(count for count, _ in left), tuple(reset for _, reset in left)


class MemorySettlement(Settlement):
    """Settles as Redis does, one check at a time, by the clock it is given. Its user reads and changes its fields."""

    def __init__(
        self, clock: Clock, *, ledger_max: int = 1000, revoked_in_postgres: RevokedInPostgres | None = None
    ) -> None:
        self.down = ""
        """Name of the dependency that does not answer."""
        self.complete = True
        self.revocations: dict[str, float] = {}
        """Per id the second up to which tokens are revoked, as `revoked_until`."""
        self.ledger: list[tuple[bytes, int]] = []
        """Events with their outcomes."""
        self.dropped = 0
        self._ledger_max = ledger_max
        self._revoked_in_postgres = revoked_in_postgres
        self._limits = LocalLimits(clock)

    async def settle(self, request: SettleRequest) -> SettleResult:
        if self.down:
            raise Unavailable(self.down)
        if request.event and len(self.ledger) >= self._ledger_max:
            raise Unavailable("ledger")
        kind = await self._revoked_by(request)
        result = SettleResult(Outcome.REVOKED, revoked_by=kind) if kind else self._limits.take(request.quota_requests)
        if request.event:
            self.ledger.append((request.event, result.recorded))
        return result

    def record(self, event: bytes) -> None:
        if len(self.ledger) < 0.9 * self._ledger_max:
            self.ledger.append((event, Outcome.OK))
        else:
            self.dropped += 1

    async def _revoked_by(self, request: SettleRequest) -> Kind | None:
        if any(request.revocation) and not self.complete:
            if self._revoked_in_postgres is None:
                raise Unavailable("postgres")
            return (await self._revoked_in_postgres([request]))[0]
        return self.revokes(request.revocation, request.issued_at)

    def revokes(self, ids: tuple[str, str, str, str, str], issued_at: int) -> Kind | None:
        """What the revocations that stand here say of a token."""
        return revoked_by(ids, issued_at, lambda entry: self.revocations.get(entry, NEVER))
