"""Every mode, and its end, by a clock that moves when told to."""

from __future__ import annotations

import math

import pytest
from msgspec import Struct
from msgspec.structs import replace

from ext_authz.errors import Unavailable
from ext_authz.ledger.event import Event, decode, encode
from ext_authz.policy.model import Failure, OnFailure
from ext_authz.revocation.entry import Kind
from ext_authz.settlement.failure_mode import FailureMode, Fallback, mark
from ext_authz.settlement.model import NO_IDS, Outcome, QuotaRequest, SettleRequest, SettleResult
from tests.fakes import FakeClock
from tests.unit.settlement.world import Knowledge, PostgresRevocations, ask, gcra, window

DENY, LOCAL, ALLOW = OnFailure.DENY, OnFailure.LOCAL, OnFailure.ALLOW
REDIS_DOWN = Unavailable("redis", "connection refused")
POSTGRES_DOWN = Unavailable("postgres", "connection refused")


class Worker(Struct):
    """One worker whose Redis is away."""

    clock: FakeClock
    postgres: PostgresRevocations
    known: Knowledge
    degraded: FailureMode
    redis_seen_at: float

    async def settle(self, failure: Failure, *quota_requests: QuotaRequest, token: str = "token") -> SettleResult:
        return await self.degraded.settle(ask(*quota_requests, token=token, failure=failure), REDIS_DOWN)

    async def outcomes(self, failure: Failure, *quota_requests: QuotaRequest, times: int) -> list[Outcome]:
        return [(await self.settle(failure, *quota_requests)).outcome for _ in range(times)]

    async def refusal(self, failure: Failure) -> Unavailable:
        with pytest.raises(Unavailable) as refused:
            await self.settle(failure)
        return refused.value


@pytest.fixture
def worker() -> Worker:
    """Redis and Postgres were seen a moment ago."""
    clock, postgres, known = FakeClock(), PostgresRevocations(), Knowledge()
    known.at = clock.monotonic()
    degraded = FailureMode(clock, Fallback(postgres), known, lambda: here.redis_seen_at)
    here = Worker(clock, postgres, known, degraded, clock.monotonic())
    return here


async def test_deny_refuses_all(worker: Worker) -> None:
    assert await worker.refusal(Failure(redis=DENY)) is REDIS_DOWN


async def test_local_counts_every_limit_in_this_worker(worker: Worker) -> None:
    local = Failure(redis=LOCAL)
    assert await worker.outcomes(local, window(2), times=3) == [Outcome.OK, Outcome.OK, Outcome.LIMITED]
    assert await worker.outcomes(local, gcra(10, burst=1), times=2) == [Outcome.OK, Outcome.LIMITED]
    answer = await worker.settle(local, window(5, key="other"))
    assert (answer.remaining, answer.degraded) == ((4,), "redis")


@pytest.mark.parametrize(
    ("share", "passed"), [(1.0, 10), (0.5, 5), (0.25, 2), (0.01, 1)], ids=["whole", "half", "quarter", "at least one"]
)
async def test_a_worker_gives_out_its_share(worker: Worker, share: float, passed: int) -> None:
    failure = Failure(redis=LOCAL, local_share=share)
    assert (await worker.outcomes(failure, window(10), times=11)).count(Outcome.OK) == passed
    assert (await worker.outcomes(failure, gcra(10, burst=10), times=11)).count(Outcome.OK) == passed


async def test_local_ends_when_redis_was_last_seen_too_long_ago(worker: Worker) -> None:
    local = Failure(redis=LOCAL, grace=60)
    worker.clock.advance(59)
    assert (await worker.settle(local)).outcome is Outcome.OK
    worker.clock.advance(1)
    refused = await worker.refusal(local)
    assert (refused.dependency, "grace of 60 s is over" in refused.detail) == ("redis", True)
    worker.redis_seen_at = worker.clock.monotonic()
    assert (await worker.settle(local)).outcome is Outcome.OK


async def test_a_redis_never_seen_has_no_grace(worker: Worker) -> None:
    worker.redis_seen_at = -math.inf
    assert (await worker.refusal(Failure(redis=LOCAL))).dependency == "redis"


async def test_allow_counts_nothing_and_has_no_end(worker: Worker) -> None:
    worker.clock.advance(1_000_000)
    answer = await worker.settle(Failure(redis=ALLOW), window(1, cost=5))
    assert (answer.outcome, answer.remaining, answer.degraded) == (Outcome.OK, (), "redis")


@pytest.mark.parametrize("mode", [LOCAL, ALLOW])
async def test_a_revoked_token_is_refused_in_every_mode_by_postgres(worker: Worker, mode: OnFailure) -> None:
    worker.postgres.revoked = {"t:kc:revoked"}
    answer = await worker.settle(Failure(redis=mode), window(1), token="revoked")
    assert (answer.outcome, answer.remaining, answer.revoked_by) == (Outcome.REVOKED, (), Kind.TOKEN)
    assert (await worker.settle(Failure(redis=mode), window(1))).outcome is Outcome.OK, "it took no quota"


@pytest.mark.parametrize("mode", [LOCAL, ALLOW])
async def test_without_postgres_too_its_own_mode_decides(worker: Worker, mode: OnFailure) -> None:
    worker.postgres.failure = POSTGRES_DOWN
    worker.known.revoked = {"u:kc:alice"}
    assert await worker.refusal(Failure(redis=mode)) is POSTGRES_DOWN
    for postgres in (LOCAL, ALLOW):
        failure = Failure(redis=mode, postgres=postgres)
        assert (await worker.settle(failure)).revoked_by is Kind.USER
    worker.known.revoked = set()
    assert (await worker.settle(Failure(redis=mode, postgres=LOCAL))).outcome is Outcome.OK


async def test_what_is_known_locally_is_believed_for_the_grace_only(worker: Worker) -> None:
    worker.postgres.failure = POSTGRES_DOWN
    worker.clock.advance(60)
    worker.redis_seen_at = worker.clock.monotonic()
    assert (await worker.refusal(Failure(redis=LOCAL, postgres=LOCAL))).dependency == "postgres"
    assert (await worker.settle(Failure(redis=LOCAL, postgres=ALLOW))).outcome is Outcome.OK


async def test_who_has_nothing_to_revoke_needs_no_postgres(worker: Worker) -> None:
    worker.postgres.failure = POSTGRES_DOWN
    anonymous = SettleRequest(NO_IDS, 0, (window(1),), b"{}", Failure(redis=LOCAL))
    assert (await worker.degraded.settle(anonymous, REDIS_DOWN)).outcome is Outcome.OK


def test_a_marked_event_has_the_dependency_and_the_limit() -> None:
    event, revoked = encode(Event("id", subject="alice")), SettleResult(Outcome.REVOKED, revoked_by=Kind.SESSION)
    ask = SettleRequest(
        NO_IDS, 0, (QuotaRequest("a", 0, 1, 1, 0), QuotaRequest('user\x1f"kc:alice', 0, 1, 1, 0)), event
    )
    both, limited = replace(revoked, degraded="redis"), SettleResult(Outcome.LIMITED, 1, degraded="redis")
    assert mark(ask, SettleResult(Outcome.OK)) == event
    assert decode(mark(ask, revoked)) == Event("id", subject="alice", revoked_by="session")
    assert decode(mark(ask, both)) == Event("id", subject="alice", degraded="redis", revoked_by="session")
    assert decode(mark(ask, limited)).limited_by == 'user\x1f"kc:alice'
    assert mark(replace(ask, event=b""), both) == mark(replace(ask, event=b""), limited) == b""
