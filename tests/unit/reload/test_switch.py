"""One worker changes its policy while checks go on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from ext_authz.check import Check
from ext_authz.decision import DecisionIds
from ext_authz.edge.authorizer import Authorizer
from ext_authz.edge.response import Responder
from ext_authz.gen.tollgate.envoy.v3.external_auth_pb2 import CheckResponse
from ext_authz.ledger.event import decode
from ext_authz.policy.model import Policy
from ext_authz.reload.authenticator import PolicyAuthenticator
from ext_authz.reload.calm import Calm
from ext_authz.reload.switch import Switch
from ext_authz.settlement.memory import MemorySettlement
from ext_authz.settlement.model import SettleRequest, SettleResult
from tests import tokens
from tests.fakes import FakeClock, FakeJwks
from tests.requests import check_request
from tests.unit.reload.policies import Policies, remove, spoil, text


class SlowSettlement(MemorySettlement):
    """Answers when the test lets it."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock)
        self.asked = asyncio.Event()
        self.let = asyncio.Event()
        self.let.set()

    async def settle(self, ask: SettleRequest) -> SettleResult:
        self.asked.set()
        await self.let.wait()
        return await super().settle(ask)


class World:
    """A worker's switch and what lives on."""

    def __init__(self, directory: Path) -> None:
        self.clock = FakeClock()
        self.policies = Policies(directory)
        self.settlement = SlowSettlement(self.clock)
        self.calm = Calm()
        policy = self.policies.load(text())
        first = PolicyAuthenticator(policy.issuers, fetch=FakeJwks(tokens.RSA), clock=self.clock, cache_size=100)
        self.switch = Switch(policy, first, self._authorizer, self.calm)
        self.message = check_request(token=tokens.mint(now=self.clock.now()))

    def _authorizer(self, policy: Policy, authenticator: PolicyAuthenticator) -> Authorizer:
        check = Check(policy, authenticator, self.settlement, DecisionIds(self.clock))
        return Authorizer(check, Responder(policy.realm, policy.responses, policy.hash))

    async def check(self) -> tuple[int, str]:
        answer = CheckResponse.FromString(await self.switch.check(self.message))
        return answer.status.code, answer.dynamic_metadata.fields["policy"].string_value


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path)
    await world.switch.start()
    yield world
    await world.switch.stop()
    await world.calm.stop()


async def test_another_policy_is_in_force(world: World) -> None:
    before = world.switch.holding.hash
    assert await world.check() == (0, before)
    order = world.policies.order(text(roles="admin"))
    await world.switch.obey(order)
    assert (world.switch.holding.hash, world.switch.holding.order) == (order.hash, order.number)
    assert await world.check() == (7, order.hash)


async def test_a_check_under_way_finishes_on_the_policy_it_began_with(world: World) -> None:
    before = world.switch.holding.hash
    world.settlement.let.clear()
    under_way = asyncio.create_task(world.check())
    await world.settlement.asked.wait()
    await world.switch.obey(world.policies.order(text(roles="admin")))
    world.settlement.let.set()
    assert await under_way == (0, before)


async def test_counters_go_on(world: World) -> None:
    for _ in range(6):
        await world.check()
    await world.switch.obey(world.policies.order(text(leeway=29)))
    codes = [(await world.check())[0] for _ in range(6)]
    assert codes == [0, 0, 0, 0, 8, 8]


async def test_the_ledger_says_which_policy_decided(world: World) -> None:
    before = world.switch.holding.hash
    await world.check()
    order = world.policies.order(text(rate=99))
    await world.switch.obey(order)
    await world.check()
    assert [decode(event).policy for event, _ in world.settlement.ledger] == [before, order.hash]


@pytest.mark.parametrize("fault", ["missing", "wrong hash", "garbage"])
async def test_what_it_cannot_take_it_leaves(world: World, fault: str, tmp_path: Path) -> None:
    before = world.switch.holding.hash
    order = world.policies.order(text(roles="admin"))
    if fault == "missing":
        remove(order)
    elif fault == "garbage":
        spoil(order)
    else:
        order = replace(order, hash="0123456789abcdef")
    await world.switch.obey(order)
    assert (world.switch.holding.hash, world.switch.holding.order) == (before, order.number)
    assert world.switch.holding.why
    assert await world.check() == (0, before)


async def test_the_same_policy_is_no_change(world: World) -> None:
    authenticator = world.switch.authenticator
    order = world.policies.order(text())
    await world.switch.obey(order)
    assert world.switch.authenticator is authenticator
    assert world.switch.holding.order == order.number
