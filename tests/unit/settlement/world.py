"""What the behaviour suite needs of a settlement under test, and the questions it asks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Protocol

from msgspec.structs import replace

from ext_authz.policy.model import Algorithm, Failure
from ext_authz.revocation.entry import Kind
from ext_authz.settlement.model import FAIL_CLOSED, Outcome, QuotaRequest, Settlement, SettleRequest, SettleResult

ISSUED_AT = 1_795_179_000
MINUTE = 60_000
HOUR, DAY, WEEK, MONTH, YEAR = 60 * MINUTE, 1440 * MINUTE, 7 * 1440 * MINUTE, 31 * 1440 * MINUTE, 366 * 1440 * MINUTE
LEDGER_MAX = 1000

ANONYMOUS = SettleRequest(("", "", "", "", ""), 0, (), b"{}")
"""A check on a public route: nothing that could be revoked."""

_numbers = itertools.count()


class World(Protocol):
    """A settlement and the state around it."""

    @property
    def settlement(self) -> Settlement: ...

    @property
    def postgres(self) -> PostgresRevocations: ...

    async def advance(self, seconds: float) -> None:
        """Time passes for the limits."""
        ...

    async def now_ms(self) -> int:
        """By the clock that the limits go by."""
        ...

    async def revoke(self, entry_id: str, value: int = 1) -> None: ...

    async def set_complete(self, *, complete: bool) -> None: ...

    async def fill_ledger(self, events: int) -> None:
        """Until that many events are in it."""
        ...

    async def ledger(self) -> list[tuple[bytes, int]]:
        """Events and outcomes, oldest first, once everything that was recorded has arrived."""
        ...


class PostgresRevocations:
    """The truth about revocations, as the settlement asks it while Redis is incomplete."""

    def __init__(self) -> None:
        self.revoked: set[str] = set()
        self.failure: Exception | None = None
        self.questions: list[int] = []
        """How many checks were asked about at once."""

    async def __call__(self, asks: Sequence[SettleRequest]) -> Sequence[Kind | None]:
        self.questions.append(len(asks))
        if self.failure:
            raise self.failure
        return [hit(self.revoked, ask.revocation) for ask in asks]


def hit(revoked: set[str], ids: Sequence[str]) -> Kind | None:
    """The first kind whose id is revoked."""
    return next((kind for kind, entry_id in zip(Kind, ids, strict=True) if entry_id in revoked), None)


class Knowledge:
    """The revocations that a worker knows by itself."""

    def __init__(self) -> None:
        self.revoked: set[str] = set()
        self.at = -math.inf

    def whole_at(self) -> float:
        return self.at

    def revokes(self, ids: tuple[str, str, str, str, str], _issued_at: int) -> Kind | None:
        return hit(self.revoked, ids)

    def saw_revoked(self, ids: tuple[str, str, str, str, str], _by: Kind) -> None:
        self.revoked.add(ids[0])


def ask(
    *quota_requests: QuotaRequest,
    token: str = "token",
    issued_at: int = ISSUED_AT,
    event: bytes | None = None,
    failure: Failure = FAIL_CLOSED,
) -> SettleRequest:
    """A check of one user; every event is its own unless given."""
    ids = (f"t:kc:{token}", "s:kc:session", "u:kc:alice", "c:kc:app", "i:kc:")
    return SettleRequest(
        ids, issued_at, quota_requests, b'{"n":%d}' % next(_numbers) if event is None else event, failure
    )


def window(limit: int, *, key: str = "window", window_ms: int = MINUTE, cost: int = 1) -> QuotaRequest:
    """A fixed window."""
    return QuotaRequest(key, Algorithm.FIXED_WINDOW, limit, window_ms, 0, cost)


def gcra(limit: int, burst: int, *, key: str = "gcra", window_ms: int = MINUTE, cost: int = 1) -> QuotaRequest:
    """GCRA: one per window / limit, `burst` at once."""
    return QuotaRequest(key, Algorithm.GCRA, limit, window_ms, burst, cost)


def sliding(limit: int, *, key: str = "sliding", window_ms: int = MINUTE, cost: int = 1) -> QuotaRequest:
    """A sliding window."""
    return QuotaRequest(key, Algorithm.SLIDING_WINDOW, limit, window_ms, 0, cost)


def calendar(limit: int, period_ms: int = DAY, *, key: str = "calendar", cost: int = 1) -> QuotaRequest:
    """A period of the calendar."""
    return QuotaRequest(key, Algorithm.CALENDAR, limit, period_ms, 0, cost)


def dry_run(take: QuotaRequest) -> QuotaRequest:
    """The same limit, which only counts."""
    return replace(take, dry_run=True)


async def allowed(world: World, times: int, *quota_requests: QuotaRequest) -> int:
    """How many of so many checks pass."""
    answers = [await world.settlement.settle(ask(*quota_requests)) for _ in range(times)]
    return sum(answer.outcome is Outcome.OK for answer in answers)


async def settle(world: World, *quota_requests: QuotaRequest) -> SettleResult:
    """One check."""
    return await world.settlement.settle(ask(*quota_requests))


async def left(world: World, *quota_requests: QuotaRequest) -> tuple[int, ...]:
    """What remains, without taking any."""
    free = (
        QuotaRequest(take.key, take.algorithm, take.limit, take.window_ms, take.burst, 0) for take in quota_requests
    )
    return (await settle(world, *free)).remaining
