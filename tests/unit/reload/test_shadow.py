"""The candidate is asked after the answer; what it says differs or not, and changes nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from ext_authz.check import Check
from ext_authz.decision import Allow, Decision, DecisionIds, Deny, Principal, Reason, Request
from ext_authz.errors import Unavailable
from ext_authz.reload import shadow as module
from ext_authz.reload.authenticator import PolicyAuthenticator
from ext_authz.reload.calm import Calm
from ext_authz.reload.differences import differences_in
from ext_authz.reload.rollout import Role
from ext_authz.reload.shadow import MAX_WAITING, Shadow
from ext_authz.reload.shadow_settlement import ShadowSettlement
from ext_authz.settlement.memory import MemorySettlement
from ext_authz.settlement.model import Outcome, QuotaRequest, SettleRequest, SettleResult
from tests import tokens
from tests.fakes import FakeClock, FakeJwks
from tests.unit.reload.policies import Policies, spoil, text

ALLOWED = Allow("id-1", Principal(subject="alice", client="web"), "infer", "sentiment")


class World:
    """One worker's shadow beside a policy that allows."""

    def __init__(self, directory: Path, sample: float = 1.0) -> None:
        self.clock = FakeClock()
        self.policies = Policies(directory)
        self.settlement = MemorySettlement(self.clock)
        self.chance = 0.0
        self.calm = Calm()
        policy = self.policies.load(text())
        self.live = PolicyAuthenticator(policy.issuers, fetch=FakeJwks(tokens.RSA), clock=self.clock, cache_size=9)
        self.shadow = Shadow(
            lambda policy, who, settlement: Check(policy, who, settlement, DecisionIds(self.clock)),
            beside=lambda: self.live,
            settlement=self.settlement,
            sample=sample,
            random=lambda: self.chance,
            clock=self.clock,
            calm=self.calm,
            file=directory / "shadow-1.json",
        )
        token = tokens.mint(now=self.clock.now())
        self.request = Request("POST", "h", "/v2/models/sentiment/infer", authorization=(f"Bearer {token}",))

    async def take(self, written: str) -> str:
        order = self.policies.order(written, Role.SHADOW)
        await self.shadow.obey(order)
        assert not self.shadow.holding.why
        return order.hash

    async def compare(self, decision: Decision = ALLOWED, times: int = 1) -> None:
        for _ in range(times):
            self.shadow.observe("live", self.request, decision)
        await asyncio.gather(*self.shadow._comparing)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path)
    await world.live.start()
    yield world
    await world.shadow.stop()
    await world.calm.stop()
    await world.live.stop()


def compared(result: str) -> float:
    return REGISTRY.get_sample_value("tollgate_shadow_compared_total", {"result": result}) or 0.0


def refused(reason: Reason, code: str = "some_code") -> Deny:
    return Deny("id-1", reason, code, "", route="infer")


async def test_without_a_candidate_nothing_happens(world: World) -> None:
    world.shadow.observe("live", world.request, ALLOWED)
    assert not world.shadow._comparing


async def test_agreement(world: World) -> None:
    await world.take(text())
    before = compared("same")
    await world.compare()
    assert compared("same") == before + 1
    assert not world.shadow.differences


async def test_a_difference_says_who_and_why(world: World) -> None:
    digest = await world.take(text(roles="admin"))
    labels = {"route": "infer", "reason": "allowed", "candidate_reason": "forbidden"}
    before = REGISTRY.get_sample_value("tollgate_shadow_differences_total", labels) or 0
    await world.compare()
    (found,) = world.shadow.differences
    assert (found.decision_id, found.subject, found.client) == ("id-1", "alice", "web")
    assert (found.route, found.model, found.candidate_route) == ("infer", "sentiment", "infer")
    assert (found.reason, found.candidate_reason) == ("allowed", "forbidden")
    assert found.candidate_code
    assert (found.policy, found.candidate_policy) == ("live", digest)
    assert REGISTRY.get_sample_value("tollgate_shadow_differences_total", labels) == before + 1


async def test_a_candidate_may_also_let_in(world: World) -> None:
    await world.take(text())
    await world.compare(refused(Reason.FORBIDDEN, "role_missing"))
    (found,) = world.shadow.differences
    assert (found.reason, found.code, found.candidate_reason) == ("forbidden", "role_missing", "allowed")
    assert found.subject == tokens.ALICE, "the candidate recognised the caller where the policy did not get so far"


@pytest.mark.parametrize("reason", [Reason.REVOKED, Reason.UNAVAILABLE, Reason.INTERNAL])
async def test_what_no_policy_says_is_not_compared(world: World, reason: Reason) -> None:
    await world.take(text())
    before = compared("incomparable")
    await world.compare(refused(reason))
    assert compared("incomparable") == before + 1
    assert not world.shadow.differences


async def test_a_redis_that_is_away_is_no_difference(world: World) -> None:
    await world.take(text())
    world.settlement.down = "redis"
    before = compared("incomparable")
    await world.compare()
    assert compared("incomparable") == before + 1


async def test_limits_are_counted_apart_and_nothing_is_written_down(world: World) -> None:
    await world.take(text(rate=2))
    await world.compare(times=5)
    assert [found.candidate_reason for found in world.shadow.differences] == ["over_limit"] * 3
    real = QuotaRequest("user\x1fi0:somebody", 0, 2, 3_600_000, 0)
    assert (await world.settlement.settle(SettleRequest(("",) * 5, 0, (real,), b"real"))).remaining == (1,)
    assert [event for event, _ in world.settlement.ledger if event] == [b"real"]


async def test_a_bug_in_a_comparison_ends_in_it(world: World, caplog: pytest.LogCaptureFixture) -> None:
    await world.take(text())
    before = compared("failed")
    world.shadow._judge = None  # type: ignore[assignment, method-assign]
    await world.compare()
    assert compared("failed") == before + 1
    assert "shadow comparison failed" in caplog.messages


async def test_there_is_an_end_to_how_many_wait(world: World) -> None:
    await world.take(text(rate=100_000))
    before = compared("skipped")
    for _ in range(MAX_WAITING + 5):
        world.shadow.observe("live", world.request, ALLOWED)
    assert len(world.shadow._comparing) == MAX_WAITING
    assert compared("skipped") == before + 5
    await asyncio.gather(*world.shadow._comparing)


async def test_a_bad_order_leaves_the_candidate(world: World) -> None:
    before = await world.take(text(roles="admin"))
    order = world.policies.order(text(), Role.SHADOW)
    spoil(order)
    await world.shadow.obey(order)
    assert (world.shadow.holding.hash, world.shadow.holding.order) == (before, order.number)
    assert "cannot be read" in world.shadow.holding.why
    await world.compare()
    assert len(world.shadow.differences) == 1


class TestSample:
    @pytest.fixture
    async def half(self, tmp_path: Path) -> AsyncIterator[World]:
        world = World(tmp_path, 0.5)
        await world.live.start()
        yield world
        await world.shadow.stop()
        await world.calm.stop()
        await world.live.stop()

    async def test_only_a_part_is_seen(self, half: World) -> None:
        await half.take(text(roles="admin"))
        for half.chance in (0.4, 0.5, 0.6):
            await half.compare()
        assert len(half.shadow.differences) == 1

    async def test_limits_are_not_compared(self, half: World) -> None:
        await half.take(text(rate=1))
        before = compared("same")
        await half.compare(times=3)
        await half.compare(refused(Reason.OVER_LIMIT))
        assert compared("same") == before + 4
        assert not half.settlement.ledger


async def test_differences_reach_the_supervisor(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PUBLISH_EVERY", 0.001)
    await world.shadow.start()
    await world.take(text(roles="admin"))
    strange = Principal(subject="a\ud800")
    await world.compare(Allow("id-2", strange, "infer"))
    async with asyncio.timeout(5):
        while not differences_in(tmp_path):  # noqa: ASYNC110 - a file
            await asyncio.sleep(0.001)
    (found,) = differences_in(tmp_path)
    assert (found.decision_id, found.subject) == ("id-2", "a\\ud800")
    assert "Bearer" not in json.dumps((tmp_path / "shadow-1.json").read_text())


class TestSettlement:
    async def test_many_go_together(self) -> None:
        class Counting(MemorySettlement):
            turns: list[int] = []  # noqa: RUF012 - one test

            async def settle(self, ask: SettleRequest) -> SettleResult:
                self.turns.append(len(asyncio.all_tasks()))
                return await super().settle(ask)

        real = Counting(FakeClock())
        settlement = ShadowSettlement(real, counts=True)
        take = QuotaRequest("user\x1fx", 0, 2, 1000, 0)
        answers = await asyncio.gather(
            *(settlement.settle(SettleRequest(("",) * 5, 0, (take,), b"x")) for _ in range(3))
        )
        assert [answer.outcome for answer in answers] == [Outcome.OK, Outcome.OK, Outcome.LIMITED]

    async def test_revocations_are_left_alone(self) -> None:
        real = MemorySettlement(FakeClock())
        real.revocations = {"t:x": 1}
        answer = await ShadowSettlement(real, counts=True).settle(SettleRequest(("t:x", "", "", "", ""), 0, (), b"x"))
        assert (answer.outcome, real.ledger) == (Outcome.OK, [])

    async def test_an_outage_is_passed_on(self) -> None:
        real = MemorySettlement(FakeClock())
        real.down = "redis"
        with pytest.raises(Unavailable):
            await ShadowSettlement(real, counts=True).settle(
                SettleRequest(("",) * 5, 0, (QuotaRequest("k", 0, 1, 1, 0),), b"")
            )
