"""The table of scenarios over the real `check.py`, and what single decisions carry."""

from __future__ import annotations

import pytest

from ext_authz import check
from ext_authz.decision import ANONYMOUS, Allow, Decision, Deny, Quota, Reason
from ext_authz.errors import Denied
from ext_authz.ledger.event import decode
from ext_authz.revocation.entry import ids
from ext_authz.settlement.model import Outcome, QuotaRequest, SettleResult
from tests.unit.check.scenarios import ALICE, OVER, SCENARIOS, Scenario, World, bearer, grpc, post, verify, world

OK = SCENARIOS[0].answer


async def decide(scenario: Scenario, here: World) -> Decision:
    return await here.decide(scenario.request)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
async def test_every_way_a_check_can_end(scenario: Scenario) -> None:
    here = world(scenario.answer, check)
    verify(scenario, await decide(scenario, here), here.settlement)


async def test_an_allowed_call_carries_who_and_what_is_left() -> None:
    here = world(OK, check)
    allow = await decide(SCENARIOS[0], here)
    assert isinstance(allow, Allow)
    assert (allow.principal, allow.route, allow.model) == (ALICE, "infer", "sentiment")
    assert allow.quotas[0] == Quota("user", 10, 60, 9, 60)


async def test_the_settle_request_names_every_way_to_be_revoked_and_every_counter() -> None:
    here = world(OK, check)
    await decide(SCENARIOS[0], here)
    (ask,) = here.settlement.requests
    assert [entry[:5] for entry in ask.revocation] == ["t:kc:", "s:kc:", "u:kc:", "c:kc:", "i:kc:"]
    assert ask.issued_at == int(here.clock.now())
    assert ask.quota_requests == (
        QuotaRequest(f"user\x1fkc:{ALICE.subject}", 0, 10, 60_000, 0),
        QuotaRequest("path\x1f/v2/models/sentiment/infer\x1fsentiment", 0, 100, 60_000, 0),
    )


async def test_the_second_call_of_a_caller_asks_the_same_under_its_own_id() -> None:
    here = world(OK, check)
    first, second = [await decide(SCENARIOS[0], here) for _ in range(2)]
    assert first.decision_id != second.decision_id
    one, two = here.settlement.requests
    assert (one.revocation, one.quota_requests) == (two.revocation, two.quota_requests)
    assert [decode(ask.event).decision_id for ask in (one, two)] == [first.decision_id, second.decision_id]


async def test_a_version_reaches_the_ledger() -> None:
    here = world(OK, check)
    await here.decide(grpc(versions=("2",)))
    assert decode(here.settlement.requests[0].event).model_version == "2"


async def test_a_limited_caller_learns_how_long_to_wait() -> None:
    here = world(OVER, check)
    deny = await decide(Scenario("over", post(), Reason.OVER_LIMIT), here)
    assert isinstance(deny, Deny)
    assert (deny.retry_after, deny.quotas[0].remaining, deny.quotas[0].reset) == (41, 0, 41)
    assert "'user'" in deny.detail


async def test_seconds_are_rounded_up_so_that_waiting_is_enough() -> None:
    here = world(SettleResult(Outcome.LIMITED, 0, (0, 99), (41_001, 1), 41_001), check)
    deny = await decide(Scenario("over", post(), Reason.OVER_LIMIT), here)
    assert isinstance(deny, Deny)
    assert (deny.retry_after, deny.quotas[1].reset) == (42, 1)


async def test_an_unreadable_message_is_refused_and_written_down() -> None:
    here = world(OK, check)
    checker = here.decide.__self__  # type: ignore[attr-defined]
    deny = checker.refuse(Denied(Reason.BAD_REQUEST, "message_malformed", "cannot be read"))
    assert (deny.reason, deny.principal) == (Reason.BAD_REQUEST, ANONYMOUS)
    assert [event.code for event in here.settlement.recorded] == ["message_malformed"]


async def test_a_public_route_does_not_wait_for_redis() -> None:
    here = world(OK, check)
    await here.decide(post("/v2/health/live", method="GET", authorization=(bearer(),)))
    assert not here.settlement.requests


async def test_prepared_requests_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ext_authz.phases.settle_request._CACHE_BYTES", 4_000)
    here = world(OK, check)
    for number in range(5):
        await here.decide(grpc(versions=(str(number + 1),)))
    checker = here.decide.__self__  # type: ignore[attr-defined]
    assert 0 < len(checker._settle_requests._prepared) < 5
    assert checker._settle_requests._prepared.bytes <= 4_000


def test_ids_of_a_service_account_leave_out_the_session() -> None:
    from ext_authz.identity.identity import Identity

    identity = Identity(ALICE, "kc", "", 1, 2.0, (), frozenset(), frozenset())
    assert ids(identity)[1] == ""
