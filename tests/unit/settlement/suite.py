"""What every settlement does: the same tests run over memory (unit) and over Redis (e2e)."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from ext_authz.errors import Unavailable
from ext_authz.revocation.entry import Kind
from ext_authz.settlement.local import period_end
from ext_authz.settlement.model import Outcome, QuotaRequest
from tests.unit.settlement.world import (
    ANONYMOUS,
    DAY,
    HOUR,
    ISSUED_AT,
    LEDGER_MAX,
    MINUTE,
    MONTH,
    WEEK,
    YEAR,
    World,
    allowed,
    ask,
    calendar,
    dry_run,
    gcra,
    settle,
    sliding,
    window,
)

TOLERANCE_MS = 1000
"""Redis' clock runs on while a test talks to it."""


def is_about(found: int, expected: int) -> bool:
    return expected - TOLERANCE_MS <= found <= expected


class FixedWindowSuite:
    async def test_allows_exactly_the_limit_and_counts_down(self, world: World) -> None:
        answers = [await settle(world, window(10)) for _ in range(11)]

        assert [answer.outcome for answer in answers] == [Outcome.OK] * 10 + [Outcome.LIMITED]
        assert [answer.remaining for answer in answers] == [(left,) for left in (9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 0)]

    async def test_opens_with_the_first_hit_and_starts_anew_when_it_ends(self, world: World) -> None:
        first = await settle(world, window(2))
        await world.advance(59)
        assert await allowed(world, 2, window(2)) == 1
        await world.advance(1)
        again = await settle(world, window(2))

        assert is_about(first.reset_ms[0], 60_000)
        assert again.outcome is Outcome.OK
        assert again.remaining == (1,)
        assert is_about(again.reset_ms[0], 60_000)

    async def test_a_refusal_does_not_prolong_the_window(self, world: World) -> None:
        await settle(world, window(1))
        await world.advance(30)
        refused = await settle(world, window(1))

        assert refused.outcome is Outcome.LIMITED
        assert refused.limited_by == 0
        assert is_about(refused.retry_after_ms, 30_000)

    async def test_retry_after_is_the_truth(self, world: World) -> None:
        await settle(world, window(1))
        await world.advance(7)
        refused = await settle(world, window(1))
        await world.advance((refused.retry_after_ms - TOLERANCE_MS) / 1000)
        early = await settle(world, window(1))
        await world.advance(early.retry_after_ms / 1000)

        assert early.outcome is Outcome.LIMITED
        assert (await settle(world, window(1))).outcome is Outcome.OK

    async def test_counts_by_key(self, world: World) -> None:
        assert await allowed(world, 3, window(2, key="alice")) == 2
        assert await allowed(world, 3, window(2, key="bob")) == 2

    async def test_takes_the_cost(self, world: World) -> None:
        assert (await settle(world, window(10, cost=7))).remaining == (3,)
        refused = await settle(world, window(10, cost=4))
        assert (refused.outcome, refused.remaining) == (Outcome.LIMITED, (3,))
        assert (await settle(world, window(10, cost=3))).remaining == (0,)

    async def test_a_cost_above_the_limit_never_passes_and_opens_no_window(self, world: World) -> None:
        refused = await settle(world, window(10, cost=11))

        assert refused.outcome is Outcome.LIMITED
        assert refused.retry_after_ms == 0
        assert (refused.remaining, refused.reset_ms) == ((10,), (0,))

    async def test_a_lower_limit_from_a_new_policy_holds_at_once(self, world: World) -> None:
        assert await allowed(world, 8, window(10)) == 8
        refused = await settle(world, window(5))
        assert (refused.outcome, refused.remaining) == (Outcome.LIMITED, (0,))
        assert await allowed(world, 3, window(10)) == 2

    async def test_a_shorter_window_from_a_new_policy_ends_the_old_one_in_time(self, world: World) -> None:
        await settle(world, window(1, window_ms=3_600_000))
        refused = await settle(world, window(1, window_ms=10_000))

        assert is_about(refused.retry_after_ms, 10_000)
        await world.advance(refused.retry_after_ms / 1000)
        assert (await settle(world, window(1, window_ms=10_000))).outcome is Outcome.OK


class ReadSuite:
    async def test_a_read_shows_what_the_next_check_finds_and_changes_nothing(self, world: World) -> None:
        limits = window(10, key="w"), gcra(10, 5, key="g"), sliding(10, key="s"), calendar(10, HOUR, key="c")
        reads = tuple(replace(limit, cost=0) for limit in limits)
        assert (await world.settlement.settle(ask(*reads, event=b""))).remaining == (10, 5, 10, 10)
        taken = [await settle(world, *limits) for _ in range(2)][-1]
        events = len(await world.ledger())
        for _ in range(3):
            read = await world.settlement.settle(ask(*reads, event=b""))
            assert (read.outcome, read.remaining) == (Outcome.OK, taken.remaining)
            assert all(is_about(found, reset) for found, reset in zip(read.reset_ms, taken.reset_ms, strict=True))
        assert len(await world.ledger()) == events
        assert (await settle(world, *limits)).remaining == tuple(left - 1 for left in taken.remaining)

    async def test_a_read_of_a_limit_that_was_lowered_shows_nothing_left(self, world: World) -> None:
        await settle(world, window(10, cost=3), sliding(10, cost=3))
        read = await world.settlement.settle(ask(window(2, cost=0), sliding(2, cost=0), window(5, key="x", cost=0)))
        assert read.remaining == (0, 0, 5)

    async def test_a_read_in_the_name_of_who_is_revoked_is_refused(self, world: World) -> None:
        await world.revoke("u:kc:alice", ISSUED_AT)
        for complete in (True, False):
            await world.set_complete(complete=complete)
            world.postgres.revoked = {"u:kc:alice"}
            read = await world.settlement.settle(ask(window(10, cost=0), event=b""))
            assert read.revoked_by is Kind.USER
        assert await world.ledger() == []

    async def test_a_full_ledger_does_not_keep_from_reading(self, world: World) -> None:
        await world.fill_ledger(LEDGER_MAX)
        assert (await world.settlement.settle(ask(window(10, cost=0), event=b""))).remaining == (10,)


class GcraSuite:
    async def test_allows_the_burst_at_once_then_one_per_interval(self, world: World) -> None:
        limit = gcra(10, burst=3)  # one per 6 s
        assert await allowed(world, 5, limit) == 3
        await world.advance(6)
        assert await allowed(world, 2, limit) == 1
        await world.advance(12)
        assert await allowed(world, 3, limit) == 2

    async def test_returns_what_remains_and_the_reset_time(self, world: World) -> None:
        answers = [await settle(world, gcra(10, burst=3)) for _ in range(4)]

        assert [answer.remaining for answer in answers] == [(2,), (1,), (0,), (0,)]
        assert all(
            is_about(answer.reset_ms[0], due)
            for answer, due in zip(answers, (6000, 12_000, 18_000, 18_000), strict=True)
        )
        assert is_about(answers[3].retry_after_ms, 6000)

    async def test_retry_after_is_the_truth(self, world: World) -> None:
        await allowed(world, 3, gcra(10, burst=3))
        refused = await settle(world, gcra(10, burst=3, cost=2))
        await world.advance((refused.retry_after_ms - TOLERANCE_MS) / 1000)
        early = await settle(world, gcra(10, burst=3, cost=2))
        await world.advance(early.retry_after_ms / 1000)

        assert is_about(refused.retry_after_ms, 12_000)
        assert early.outcome is Outcome.LIMITED
        assert (await settle(world, gcra(10, burst=3, cost=2))).outcome is Outcome.OK

    async def test_an_unset_burst_is_one(self, world: World) -> None:
        assert await allowed(world, 2, gcra(10, burst=0)) == 1

    async def test_a_cost_above_the_burst_never_passes(self, world: World) -> None:
        refused = await settle(world, gcra(10, burst=3, cost=4))
        assert (refused.outcome, refused.retry_after_ms, refused.remaining) == (Outcome.LIMITED, 0, (3,))

    async def test_a_faster_limit_from_a_new_policy_does_not_wait_for_the_debt_of_the_old(self, world: World) -> None:
        await allowed(world, 10, gcra(10, burst=10, window_ms=3_600_000))  # an hour of debt
        refused = await settle(world, gcra(10, burst=2, window_ms=10_000))

        assert is_about(refused.retry_after_ms, 1000)
        assert refused.remaining == (0,)
        await world.advance(refused.retry_after_ms / 1000)
        assert (await settle(world, gcra(10, burst=2, window_ms=10_000))).outcome is Outcome.OK

    async def test_an_algorithm_from_a_new_policy_starts_anew(self, world: World) -> None:
        assert await allowed(world, 2, window(1, key="same")) == 1
        assert await allowed(world, 2, gcra(1, burst=1, key="same")) == 1


class SlidingWindowSuite:
    async def test_allows_exactly_the_limit_and_counts_down(self, world: World) -> None:
        answers = [await settle(world, sliding(10)) for _ in range(11)]

        assert [answer.outcome for answer in answers] == [Outcome.OK] * 10 + [Outcome.LIMITED]
        assert [answer.remaining for answer in answers] == [(left,) for left in (9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 0)]
        assert all(is_about(answer.reset_ms[0], MINUTE) for answer in answers)

    async def test_what_was_used_comes_back_a_window_later_not_at_once(self, world: World) -> None:
        assert await allowed(world, 6, sliding(10)) == 6
        await world.advance(30)
        assert await allowed(world, 6, sliding(10)) == 4
        await world.advance(31)
        assert await allowed(world, 7, sliding(10)) == 6
        await world.advance(30)
        assert await allowed(world, 7, sliding(10)) == 4

    async def test_retry_after_is_the_truth(self, world: World) -> None:
        await allowed(world, 2, sliding(3))
        await world.advance(20)
        await settle(world, sliding(3))
        refused = await settle(world, sliding(3, cost=3))
        assert is_about(refused.retry_after_ms, MINUTE)
        refused = await settle(world, sliding(3, cost=2))
        assert is_about(refused.retry_after_ms, 40_000)
        await world.advance((refused.retry_after_ms - TOLERANCE_MS) / 1000)
        early = await settle(world, sliding(3, cost=2))
        await world.advance(early.retry_after_ms / 1000)

        assert early.outcome is Outcome.LIMITED
        assert (await settle(world, sliding(3, cost=2))).remaining == (0,)

    async def test_many_hits_close_together_are_kept_as_one(self, world: World) -> None:
        for _ in range(3):
            assert await allowed(world, 5, sliding(15)) == 5
            await world.advance(0.3)
        assert await allowed(world, 1, sliding(15)) == 0
        await world.advance(60)
        assert await allowed(world, 16, sliding(15)) == 15

    async def test_a_cost_above_the_limit_never_passes(self, world: World) -> None:
        refused = await settle(world, sliding(10, cost=11))
        assert (refused.outcome, refused.retry_after_ms, refused.remaining) == (Outcome.LIMITED, 0, (10,))
        assert refused.reset_ms == (0,)

    async def test_a_lower_limit_or_a_shorter_window_from_a_new_policy_holds_at_once(self, world: World) -> None:
        assert await allowed(world, 8, sliding(10)) == 8
        refused = await settle(world, sliding(5))
        assert (refused.outcome, refused.remaining) == (Outcome.LIMITED, (0,))
        await world.advance(20)
        assert await allowed(world, 6, sliding(5, window_ms=10_000)) == 5

    async def test_an_algorithm_from_a_new_policy_starts_anew(self, world: World) -> None:
        for take in (sliding(1, key="same"), window(1, key="same"), sliding(1, key="same"), gcra(1, 1, key="same")):
            assert (await settle(world, take)).outcome is Outcome.OK
            await world.advance(61)


class CalendarSuite:
    @pytest.mark.parametrize(
        "period",
        [HOUR, DAY, WEEK, MONTH, MONTH + 14, YEAR],
        ids=["hour", "day", "week", "month", "month from the 15th", "year"],
    )
    async def test_counts_until_the_period_ends(self, world: World, period: int) -> None:
        now = await world.now_ms()
        answers = [await settle(world, calendar(2, period)) for _ in range(3)]

        assert [answer.outcome for answer in answers] == [Outcome.OK, Outcome.OK, Outcome.LIMITED]
        assert [answer.remaining for answer in answers] == [(1,), (0,), (0,)]
        left = period_end(now, period) - now
        assert is_about(answers[0].reset_ms[0], left)
        assert is_about(answers[2].retry_after_ms, left)

    async def test_starts_anew_when_the_period_ends(self, world: World) -> None:
        refused = [await settle(world, calendar(1, MONTH)) for _ in range(2)][1]
        await world.advance(refused.retry_after_ms / 1000)
        assert (await settle(world, calendar(1, MONTH))).outcome is Outcome.OK

    async def test_a_shorter_period_from_a_new_policy_ends_the_old_one_in_time(self, world: World) -> None:
        await settle(world, calendar(1, YEAR))
        now = await world.now_ms()
        refused = await settle(world, calendar(1, HOUR))
        assert is_about(refused.retry_after_ms, period_end(now, HOUR) - now)

    async def test_takes_the_cost(self, world: World) -> None:
        assert (await settle(world, calendar(10, cost=7))).remaining == (3,)
        refused = await settle(world, calendar(10, cost=4))
        assert (refused.outcome, refused.remaining) == (Outcome.LIMITED, (3,))
        assert (await settle(world, calendar(10, cost=11))).retry_after_ms == 0


class DryRunSuite:
    @pytest.mark.parametrize("limit", [window(2), sliding(2), gcra(2, 2), calendar(2)], ids=lambda take: take.key)
    async def test_counts_as_enforced_and_refuses_no_call(self, world: World, limit: QuotaRequest) -> None:
        answers = [await settle(world, dry_run(limit)) for _ in range(4)]

        assert [answer.outcome for answer in answers] == [Outcome.OK] * 4
        assert [answer.remaining for answer in answers] == [(1,), (0,), (-1,), (-1,)]
        assert [answer.dry_run_over for answer in answers] == [(), (), (0,), (0,)]
        assert (await settle(world, limit)).outcome is Outcome.LIMITED

    async def test_takes_from_the_others_all_the_same(self, world: World) -> None:
        quota_requests = (
            window(5),
            dry_run(window(1, key="dry_run")),
            dry_run(gcra(1, 1)),
            dry_run(window(9, key="wide")),
        )
        await settle(world, *quota_requests)
        answer = await settle(world, *quota_requests)
        assert (answer.remaining, answer.dry_run_over) == ((3, -1, -1, 7), (1, 2))

    async def test_takes_nothing_of_what_another_limit_refuses(self, world: World) -> None:
        await settle(world, window(1))
        refused = [await settle(world, window(1), dry_run(window(3, key="dry_run"))) for _ in range(5)]
        assert {answer.outcome for answer in refused} == {Outcome.LIMITED}
        assert (await settle(world, dry_run(window(3, key="dry_run")))).remaining == (2,)

    async def test_is_never_named_as_what_refused(self, world: World) -> None:
        quota_requests = (dry_run(window(1, key="dry_run", window_ms=HOUR)), window(1))
        await settle(world, *quota_requests)
        refused = await settle(world, *quota_requests)
        assert (refused.outcome, refused.limited_by) == (Outcome.LIMITED, 1)
        assert is_about(refused.retry_after_ms, MINUTE)

    async def test_is_not_reported_of_a_request_that_another_limit_refuses(self, world: World) -> None:
        quota_requests = (dry_run(window(5, key="dry_run")), window(1))
        await settle(world, *quota_requests)
        for limit in (5, 0):  # 0: as a new policy has it
            refused = await settle(world, dry_run(window(limit, key="dry_run")), window(1))
            assert (refused.outcome, refused.dry_run_over) == (Outcome.LIMITED, ())

    async def test_a_cost_that_never_fits_passes(self, world: World) -> None:
        assert (await settle(world, dry_run(window(1, cost=2)))).dry_run_over == (0,)
        assert (await settle(world, dry_run(window(1)))).remaining == (0,)

    async def test_is_told_to_the_ledger(self, world: World) -> None:
        for _ in range(2):
            await settle(world, window(5), dry_run(window(1, key="dry_run")))
        assert [outcome for _, outcome in await world.ledger()] == [Outcome.OK, Outcome.DRY_RUN_OVER]


class SeveralLimitsSuite:
    async def test_all_or_nothing(self, world: World) -> None:
        wide, narrow, smooth = window(100, key="wide"), window(1, key="narrow"), gcra(10, burst=5)
        assert (await settle(world, wide, narrow, smooth)).remaining == (99, 0, 4)
        refused = await settle(world, wide, narrow, smooth)

        assert (refused.outcome, refused.limited_by) == (Outcome.LIMITED, 1)
        assert refused.remaining == (99, 0, 4)
        assert (await settle(world, wide, smooth)).remaining == (98, 3)

    async def test_of_several_that_refuse_the_one_that_resets_last_is_named(self, world: World) -> None:
        quota_requests = (window(1, key="a", window_ms=2000), window(1, key="b", window_ms=9000), gcra(10, burst=1))
        await settle(world, *quota_requests)
        refused = await settle(world, *quota_requests)

        assert refused.limited_by == 1
        assert is_about(refused.retry_after_ms, 9000)

    async def test_never_outlasts_every_wait(self, world: World) -> None:
        await settle(world, window(1, key="a"))
        refused = await settle(world, window(1, key="a"), window(1, key="b", cost=2))
        assert (refused.limited_by, refused.retry_after_ms) == (1, 0)

    async def test_no_limits_is_no_refusal(self, world: World) -> None:
        answer = await settle(world)
        assert (answer.outcome, answer.limited_by, answer.remaining) == (Outcome.OK, -1, ())


class RevocationSuite:
    @pytest.mark.parametrize("entry_id", ["t:kc:token", "s:kc:session"])
    async def test_a_revoked_token_or_session_is_out_whenever_it_was_issued(self, world: World, entry_id: str) -> None:
        await world.revoke(entry_id, 1)
        answer = await settle(world, window(1))
        assert (answer.outcome, answer.remaining, answer.reset_ms) == (Outcome.REVOKED, (), ())

    @pytest.mark.parametrize("place", range(5))
    async def test_returns_the_first_revocation_that_applies(self, world: World, place: int) -> None:
        question = ask()
        for entry_id in question.revocation[place:]:
            await world.revoke(entry_id, ISSUED_AT)
        assert (await world.settlement.settle(question)).revoked_by is tuple(Kind)[place]

    async def test_what_was_issued_later_is_hit_by_what_still_hits_it(self, world: World) -> None:
        await world.revoke("u:kc:alice", ISSUED_AT - 1)
        assert (await settle(world)).revoked_by is None
        await world.revoke("c:kc:app", ISSUED_AT)
        assert (await settle(world)).revoked_by is Kind.CLIENT

    @pytest.mark.parametrize("entry_id", ["u:kc:alice", "c:kc:app", "i:kc:"])
    @pytest.mark.parametrize(
        ("age", "outcome"),
        [(-1, Outcome.REVOKED), (0, Outcome.REVOKED), (1, Outcome.OK)],
        ids=["older", "same", "newer"],
    )
    async def test_not_before_takes_the_same_second_too(
        self, world: World, entry_id: str, age: int, outcome: Outcome
    ) -> None:
        await world.revoke(entry_id, ISSUED_AT)
        assert (await world.settlement.settle(ask(issued_at=ISSUED_AT + age))).outcome is outcome

    async def test_takes_no_quota_and_precedes_the_limit(self, world: World) -> None:
        await world.revoke("t:kc:revoked")
        for _ in range(3):
            answer = await world.settlement.settle(ask(window(1), token="revoked"))
            assert answer.outcome is Outcome.REVOKED
        assert await allowed(world, 2, window(1)) == 1
        assert (await world.settlement.settle(ask(window(1), token="revoked"))).outcome is Outcome.REVOKED

    async def test_an_empty_id_matches_nothing(self, world: World) -> None:
        await world.revoke("")
        assert (await world.settlement.settle(ANONYMOUS)).outcome is Outcome.OK


class IncompleteSuite:
    async def test_postgres_answers_and_the_limits_hold_on(self, world: World) -> None:
        await world.set_complete(complete=False)
        assert await allowed(world, 3, window(2)) == 2
        assert sum(world.postgres.questions) == 3

    async def test_revoked_in_postgres_takes_no_quota_and_is_in_the_ledger(self, world: World) -> None:
        await world.set_complete(complete=False)
        world.postgres.revoked = {"t:kc:revoked"}
        revoked = ask(window(1), token="revoked")

        answer = await world.settlement.settle(revoked)
        assert (answer.outcome, answer.revoked_by) == (Outcome.REVOKED, Kind.TOKEN)
        ((event, outcome),) = await world.ledger()
        assert (event.startswith(revoked.event[:-1]), outcome) == (True, Outcome.REVOKED)
        assert await allowed(world, 1, window(1)) == 1

    async def test_postgres_away_is_unavailable(self, world: World) -> None:
        await world.set_complete(complete=False)
        world.postgres.failure = Unavailable("postgres", "connection refused")
        with pytest.raises(Unavailable) as refused:
            await settle(world, window(1))

        assert refused.value.dependency == "postgres"
        await world.set_complete(complete=True)
        assert await allowed(world, 1, window(1)) == 1

    async def test_who_has_nothing_to_revoke_passes(self, world: World) -> None:
        await world.set_complete(complete=False)
        assert (await world.settlement.settle(ANONYMOUS)).outcome is Outcome.OK
        assert world.postgres.questions == []


class LedgerSuite:
    async def test_holds_every_outcome_in_order(self, world: World) -> None:
        await world.revoke("t:kc:revoked")
        asks = [ask(window(1)), ask(window(1)), ask(token="revoked")]
        for each in asks:
            await world.settlement.settle(each)

        outcomes = (Outcome.OK, Outcome.LIMITED, Outcome.REVOKED)
        assert await world.ledger() == [(each.event, outcome) for each, outcome in zip(asks, outcomes, strict=True)]

    async def test_holds_what_was_refused_elsewhere(self, world: World) -> None:
        world.settlement.record(b'{"reason":"no_route"}')
        assert await world.ledger() == [(b'{"reason":"no_route"}', Outcome.OK)]

    async def test_full_lets_nothing_pass_and_takes_nothing(self, world: World) -> None:
        await world.fill_ledger(LEDGER_MAX - 1)
        assert (await settle(world, window(2))).outcome is Outcome.OK
        with pytest.raises(Unavailable) as refused:
            await settle(world, window(2))

        assert refused.value.dependency == "ledger"
        assert len(await world.ledger()) == LEDGER_MAX
        await world.fill_ledger(0)
        assert (await settle(world, window(2))).remaining == (0,)

    async def test_keeps_its_last_tenth_for_what_passes(self, world: World) -> None:
        await world.fill_ledger(LEDGER_MAX * 9 // 10 - 1)
        world.settlement.record(b"{}")
        world.settlement.record(b"{}")
        assert len(await world.ledger()) == LEDGER_MAX * 9 // 10
        assert (await settle(world)).outcome is Outcome.OK


class LimitsSuite(FixedWindowSuite, GcraSuite, SlidingWindowSuite, CalendarSuite, DryRunSuite, SeveralLimitsSuite):
    """All that is about limits."""


class SettlementSuite(LimitsSuite, RevocationSuite, IncompleteSuite, LedgerSuite, ReadSuite):
    """Subclasses bring the fixture `world`."""
