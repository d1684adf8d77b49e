"""Settlement in memory: `tollgate policy test` and `diff` count with it, and the tests. One suite holds it to Redis."""

from __future__ import annotations

import math

from ext_authz.clock import Clock
from ext_authz.errors import Unavailable
from ext_authz.limits.limit import Algorithm
from ext_authz.settlement.fallback import RevokedInPostgres
from ext_authz.settlement.model import Answer, Ask, Outcome, Settlement, Take


class MemorySettlement(Settlement):
    """Settles as Redis does, one check at a time, by the clock it is given. Its user reads and changes its fields."""

    def __init__(
        self, clock: Clock, *, ledger_max: int = 1000, revoked_in_postgres: RevokedInPostgres | None = None
    ) -> None:
        self.down = ""
        """Name of the dependency that does not answer."""
        self.complete = True
        self.revocations: dict[str, int] = {}
        self.ledger: list[tuple[bytes, int]] = []
        """Events with their outcomes."""
        self.dropped = 0
        self._clock = clock
        self._ledger_max = ledger_max
        self._revoked_in_postgres = revoked_in_postgres
        self._windows: dict[str, tuple[int, int]] = {}
        self._arrivals: dict[str, int] = {}

    async def settle(self, ask: Ask) -> Answer:
        if self.down:
            raise Unavailable(self.down)
        if len(self.ledger) >= self._ledger_max:
            raise Unavailable("ledger")
        answer = Answer(Outcome.REVOKED) if await self._is_revoked(ask) else self._take(ask.takes)
        self.ledger.append((ask.event, answer.outcome))
        return answer

    def record(self, event: bytes) -> None:
        if len(self.ledger) < 0.9 * self._ledger_max:
            self.ledger.append((event, Outcome.OK))
        else:
            self.dropped += 1

    async def _is_revoked(self, ask: Ask) -> bool:
        if any(ask.revocation) and not self.complete:
            if self._revoked_in_postgres is None:
                raise Unavailable("postgres")
            return (await self._revoked_in_postgres([ask]))[0]
        in_force = [self.revocations.get(entry) if entry else None for entry in ask.revocation]
        token, session, *others = in_force
        if token is not None or session is not None:
            return True
        return any(not_before is not None and not_before >= ask.issued_at for not_before in others)

    def _take(self, takes: tuple[Take, ...]) -> Answer:
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
