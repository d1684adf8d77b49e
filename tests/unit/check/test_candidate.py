"""The candidate is asked after the answer; what it says differs or not, and changes nothing."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace
from prometheus_client import REGISTRY

from ext_authz.candidate import MAX_WAITING, Candidate, CandidateSettlement
from ext_authz.check import Check
from ext_authz.decision import Allow, Decision, DecisionIds, Deny, Principal, Reason, Request
from ext_authz.errors import Unavailable
from ext_authz.identity.authenticator import TokenAuthenticator
from ext_authz.policy.load import load_policy
from ext_authz.policy.model import Policy
from ext_authz.settlement.local import MemorySettlement
from ext_authz.settlement.model import Outcome, QuotaRequest, SettleRequest, SettleResult
from tests import tokens
from tests.fakes import FakeClock, FakeJwks

ALLOWED = Allow("id-1", Principal(subject="alice", client="web"), "infer", "sentiment")


def text(*, roles: str = "infer", rate: int = 10) -> str:
    """One route to the model sentiment, open to `roles`, with a limit."""
    return f"""
version: 1
issuers:
  - {{name: i0, issuer: {tokens.ISSUER}, audiences: [triton-gateway], roles_client: triton-gateway}}
limits:
  user: {{key: [user], rate: {rate}/hour}}
models:
  sentiment: {{roles: [infer]}}
routes:
  - {{name: infer, path: "/v2/models/{{model}}/infer", methods: [POST], roles: [{roles}], limits: [user]}}
"""


class World:
    """One worker's candidate beside a policy that allows."""

    def __init__(self, directory: Path, sample: float = 1.0) -> None:
        self.clock = FakeClock()
        self.settlement = MemorySettlement(self.clock)
        self.chance = 0.0
        self.file = directory / "candidate.yaml"
        self.sample = sample
        token = tokens.mint(now=self.clock.now())
        self.request = Request("POST", "h", "/v2/models/sentiment/infer", authorization=(f"Bearer {token}",))
        self.candidate = self.candidate_of(text())

    def candidate_of(self, written: str) -> Candidate:
        """As a worker is with this candidate."""
        self.file.write_text(written)
        self.candidate = Candidate(
            lambda: load_policy(self.file, {}),
            self._build,
            policy="live",
            sample=self.sample,
            random=lambda: self.chance,
            clock=self.clock,
        )
        return self.candidate

    def _build(self, policy: Policy) -> tuple[Check, TokenAuthenticator]:
        fetch = FakeJwks(tokens.RSA)
        who = TokenAuthenticator(policy.issuers, fetch=fetch, clock=self.clock, cache_size=9, whose="candidate:")
        settlement = CandidateSettlement(self.settlement, counts=self.sample >= 1)
        return Check(policy, who, settlement, DecisionIds(self.clock)), who

    async def compare(self, decision: Decision = ALLOWED, times: int = 1) -> None:
        for _ in range(times):
            self.candidate.observe(self.request, decision)
        await asyncio.gather(*self.candidate._comparing)


@pytest.fixture
async def world(tmp_path: Path) -> World:
    return World(tmp_path)


def compared(result: str) -> float:
    return REGISTRY.get_sample_value("tollgate_candidate_compared_decisions_total", {"result": result}) or 0.0


def reported() -> tuple[float | None, float | None]:
    """Of the limit and of the flood guard of `text`; a look at `labels` would make a series."""
    value = REGISTRY.get_sample_value
    of_limit = value("tollgate_limit_dry_run_checks_total", {"limit": "user"})
    return of_limit, value("tollgate_flood_refused_checks_total")


def refused(reason: Reason, code: str = "some_code") -> Deny:
    return Deny("id-1", reason, code, "", route="infer")


@pytest.mark.parametrize("written", ["version: 1\nrouts: []\n", "nonsense", "version: 1"])
async def test_a_bad_candidate_is_reported_and_compares_nothing(world: World, written: str) -> None:
    bad = world.candidate_of(written)
    assert (bad.hash, "candidate.yaml" in bad.faults[0]) == ("", True)
    await bad.start()
    await world.compare()
    assert not bad.differences()
    await bad.stop()


async def test_agreement(world: World) -> None:
    world.candidate_of(text())
    before = compared("same")
    await world.compare()
    assert compared("same") == before + 1
    assert not world.candidate.differences()


async def test_a_difference_has_caller_and_reason(world: World) -> None:
    digest = world.candidate_of(text(roles="admin")).hash
    labels = {"route": "infer", "reason": "allowed", "candidate_reason": "forbidden"}
    before = REGISTRY.get_sample_value("tollgate_candidate_differences_total", labels) or 0
    await world.compare()
    (found,) = world.candidate.differences()
    assert (found.decision_id, found.subject, found.client) == ("id-1", "alice", "web")
    assert (found.route, found.model, found.candidate_route) == ("infer", "sentiment", "infer")
    assert (found.reason, found.candidate_reason) == ("allowed", "forbidden")
    assert found.candidate_code
    assert (found.policy, found.candidate_policy) == ("live", digest)
    assert REGISTRY.get_sample_value("tollgate_candidate_differences_total", labels) == before + 1


async def test_a_candidate_may_also_let_in(world: World) -> None:
    world.candidate_of(text())
    await world.compare(refused(Reason.FORBIDDEN, "role_missing"))
    (found,) = world.candidate.differences()
    assert (found.reason, found.code, found.candidate_reason) == ("forbidden", "role_missing", "allowed")
    assert found.subject == tokens.ALICE, "the candidate recognised the caller where the policy did not get so far"


@pytest.mark.parametrize("reason", [Reason.REVOKED, Reason.UNAVAILABLE, Reason.INTERNAL])
async def test_outages_and_revocations_are_not_compared(world: World, reason: Reason) -> None:
    world.candidate_of(text())
    before = compared("incomparable")
    await world.compare(refused(reason))
    assert compared("incomparable") == before + 1
    assert not world.candidate.differences()


async def test_a_redis_that_is_away_is_no_difference(world: World) -> None:
    world.candidate_of(text())
    world.settlement.down = "redis"
    before = compared("incomparable")
    await world.compare()
    assert compared("incomparable") == before + 1


async def test_limits_are_counted_apart_and_nothing_is_written_down(world: World) -> None:
    world.candidate_of(text(rate=2))
    await world.compare(times=5)
    assert [found.candidate_reason for found in world.candidate.differences()] == ["over_limit"] * 3
    real = QuotaRequest("user\x1fi0:somebody", 0, 2, 3_600_000, 0)
    assert (await world.settlement.settle(SettleRequest(("",) * 5, 0, (real,), b"real"))).remaining == (1,)
    assert [event for event, _ in world.settlement.ledger if event] == [b"real"]


async def test_what_only_the_candidate_would_refuse_is_in_no_metric_or_log_of_limits(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    before = reported()
    dry = text(rate=2).replace("rate: 2/hour", "rate: 2/hour, dry_run: true")
    world.candidate_of(f"{dry}flood: {{rate: 1/minute, burst: 1}}\n")
    await world.compare(times=5)
    world.request = replace(world.request, authorization=())
    await world.compare(Deny("id-1", Reason.NO_CREDENTIAL, "credential_missing", ""), times=5)
    assert {found.candidate_code for found in world.candidate.differences()} == {"flood"}
    assert reported() == before
    assert {record.message for record in caplog.records} == {"the candidate policy differs", "jwks fetched"}


async def test_a_bug_in_a_comparison_ends_in_it(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.candidate_of(text())
    before = compared("failed")
    world.candidate._judge = None  # type: ignore[assignment, method-assign]
    await world.compare()
    assert compared("failed") == before + 1
    assert "candidate comparison failed" in caplog.messages


async def test_there_is_an_end_to_how_many_wait(world: World) -> None:
    world.candidate_of(text(rate=100_000))
    before = compared("skipped")
    for _ in range(MAX_WAITING + 5):
        world.candidate.observe(world.request, ALLOWED)
    assert len(world.candidate._comparing) == MAX_WAITING
    assert compared("skipped") == before + 5
    await asyncio.gather(*world.candidate._comparing)


class TestSample:
    @pytest.fixture
    async def half(self, tmp_path: Path) -> World:
        return World(tmp_path, 0.5)

    async def test_only_a_part_is_seen(self, half: World) -> None:
        half.candidate_of(text(roles="admin"))
        for half.chance in (0.4, 0.5, 0.6):
            await half.compare()
        assert len(half.candidate.differences()) == 1

    async def test_limits_are_not_compared(self, half: World) -> None:
        half.candidate_of(text(rate=1))
        before = compared("same")
        await half.compare(times=3)
        await half.compare(refused(Reason.OVER_LIMIT))
        assert compared("same") == before + 4
        assert not half.settlement.ledger


async def test_a_difference_is_handed_over_once_and_holds_no_credential(world: World) -> None:
    world.candidate_of(text(roles="admin"))
    await world.compare(Allow("id-2", Principal(subject="a\ud800"), "infer"))
    (found,) = world.candidate.differences()
    assert (found.decision_id, found.subject) == ("id-2", "a\\ud800")
    assert b"Bearer" not in msgspec.json.encode(found)
    assert not world.candidate.differences()


async def test_it_fetches_its_own_keys_and_counts_nothing_twice(world: World) -> None:
    before = REGISTRY.get_sample_value("tollgate_token_cache_lookups_total", {"result": "miss"})
    await world.candidate.start()
    await world.compare()
    await world.candidate.stop()
    assert REGISTRY.get_sample_value("tollgate_token_cache_lookups_total", {"result": "miss"}) == before


class TestSettlement:
    async def test_many_go_together(self) -> None:
        class Counting(MemorySettlement):
            turns: list[int] = []  # noqa: RUF012 - one test

            async def settle(self, ask: SettleRequest) -> SettleResult:
                self.turns.append(len(asyncio.all_tasks()))
                return await super().settle(ask)

        real = Counting(FakeClock())
        settlement = CandidateSettlement(real, counts=True)
        take = QuotaRequest("user\x1fx", 0, 2, 1000, 0)
        answers = await asyncio.gather(
            *(settlement.settle(SettleRequest(("",) * 5, 0, (take,), b"x")) for _ in range(3))
        )
        assert [answer.outcome for answer in answers] == [Outcome.OK, Outcome.OK, Outcome.LIMITED]

    async def test_revocations_are_left_alone(self) -> None:
        real = MemorySettlement(FakeClock())
        real.revocations = {"t:x": 1}
        answer = await CandidateSettlement(real, counts=True).settle(
            SettleRequest(("t:x", "", "", "", ""), 0, (), b"x")
        )
        assert (answer.outcome, real.ledger) == (Outcome.OK, [])

    async def test_an_outage_is_passed_on(self) -> None:
        real = MemorySettlement(FakeClock())
        real.down = "redis"
        with pytest.raises(Unavailable):
            await CandidateSettlement(real, counts=True).settle(
                SettleRequest(("",) * 5, 0, (QuotaRequest("k", 0, 1, 1, 0),), b"")
            )
