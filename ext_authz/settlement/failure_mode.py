"""What goes on while a dependency does not answer: as much as the route's failure policy allows, as long as it allows.

Local is bounded by the time since the dependency was last known to answer; after that, and wherever the policy says
deny, the outage is passed on. docs/adr/0014-failure-modes.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from msgspec.structs import replace

from ext_authz.clock import Clock
from ext_authz.errors import Unavailable
from ext_authz.ledger.event import with_fields
from ext_authz.policy.model import Failure, OnFailure
from ext_authz.revocation.entry import Kind
from ext_authz.settlement.local import LocalLimits
from ext_authz.settlement.model import Outcome, QuotaRequest, RevokedInPostgres, SettleRequest, SettleResult


class Fallback:
    """One question at a time; what comes meanwhile goes together with the next."""

    def __init__(self, revoked_in_postgres: RevokedInPostgres) -> None:
        self._revoked_in_postgres = revoked_in_postgres
        self._waiting: list[tuple[SettleRequest, asyncio.Future[Kind | None]]] = []
        self._task: asyncio.Task[None] | None = None

    async def revoked_by(self, request: SettleRequest) -> Kind | None:
        future: asyncio.Future[Kind | None] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, future))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._answer_all(), name="revocations from Postgres")
        return await future

    async def stop(self) -> None:
        """Let the running question end; it is bounded by the deadline of who answers it."""
        if self._task:
            await self._task

    async def _answer_all(self) -> None:
        while self._waiting:
            waiting, self._waiting = self._waiting, []
            try:
                verdicts = await self._revoked_in_postgres([request for request, _ in waiting])
                results = list(zip(waiting, verdicts, strict=True))
            except Exception as failure:  # noqa: BLE001 - every check that waits raises it
                for _, future in waiting:
                    if not future.done():
                        future.set_exception(failure)
                continue
            for (_, future), revoked in results:
                if not future.done():
                    future.set_result(revoked)


MAX_COUNTERS = 100_000
"""In one worker."""


class Known(Protocol):
    """The revocations that this worker knows by itself."""

    def whole_at(self) -> float:
        """Monotonic time of the last moment at which it knew all of them."""
        ...

    def revokes(self, ids: tuple[str, str, str, str, str], issued_at: int) -> Kind | None:
        """By which of these ids such a token is revoked."""
        ...

    def saw_revoked(self, ids: tuple[str, str, str, str, str], by: Kind) -> None:
        """Redis refused this token: from now on it is refused, whatever Redis does."""
        ...


class FailureMode:
    """Answers for Redis, and for Postgres where Redis is up but does not hold every revocation."""

    def __init__(self, clock: Clock, fallback: Fallback, known: Known, redis_seen_at: Callable[[], float]) -> None:
        """`redis_seen_at`: monotonic time at which Redis was last known to answer."""
        self._clock = clock
        self._fallback = fallback
        self._known = known
        self._redis_seen_at = redis_seen_at
        self._limits = LocalLimits(clock, size=MAX_COUNTERS)

    async def settle(self, request: SettleRequest, outage: Unavailable) -> SettleResult:
        """One check without Redis; nothing is written down yet.

        Raises:
            Unavailable: the policy refuses without Redis, or the grace is over.
        """
        failure = request.failure
        self._ensure_permitted(outage, failure.redis, failure, self._redis_seen_at())
        kind, _ = await self.revoked_by(request)
        if kind:
            return SettleResult(Outcome.REVOKED, degraded="redis", revoked_by=kind)
        if failure.redis is OnFailure.ALLOW:
            return SettleResult(Outcome.OK, degraded="redis")
        return replace(self._limits.take(_shares(request.quota_requests, failure.local_share)), degraded="redis")

    async def revoked_by(self, request: SettleRequest) -> tuple[Kind | None, str]:
        """By which id it is revoked, by Postgres or by what this worker knows; then also without what: "postgres".

        Raises:
            Unavailable: "postgres", and the policy does not go on without it, or not any more.
        """
        if not any(request.revocation):
            return None, ""
        try:
            return await self._fallback.revoked_by(request), ""
        except Unavailable as outage:
            self._ensure_permitted(outage, request.failure.postgres, request.failure, self._known.whole_at())
        return self._known.revokes(request.revocation, request.issued_at), "postgres"

    def _ensure_permitted(self, outage: Unavailable, mode: OnFailure, failure: Failure, seen_at: float) -> None:
        if mode is OnFailure.DENY:
            raise outage
        if mode is OnFailure.LOCAL and self._clock.monotonic() - seen_at >= failure.grace:
            raise Unavailable(outage.dependency, f"{outage.detail}; the grace of {failure.grace} s is over")


def mark(request: SettleRequest, result: SettleResult) -> bytes:
    """The event, with the dependency without which it was settled, and what refused it."""
    limited = result.outcome is Outcome.LIMITED
    return with_fields(
        request.event,
        degraded=result.degraded,
        revoked_by=result.revoked_by.label if result.revoked_by else "",
        limited_by=request.quota_requests[result.limited_by].key if limited else "",
    )


def _shares(quota_requests: tuple[QuotaRequest, ...], share: float) -> tuple[QuotaRequest, ...]:
    """What one worker may give out, at least one each: the limit itself must not become a refusal."""
    if share == 1:
        return quota_requests
    return tuple(
        replace(quota, limit=max(1, int(quota.limit * share)), burst=max(1, int(quota.burst * share)))
        for quota in quota_requests
    )
