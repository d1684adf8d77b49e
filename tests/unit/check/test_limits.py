"""What is counted, for whom, by what and how much: over the real check, with limits that are really counted."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from ext_authz import check as module
from ext_authz.decision import Allow, Decision, DecisionIds, Deny, Reason, Request
from ext_authz.identity.authenticator import TokenAuthenticator
from ext_authz.identity.jwks import Fetch
from ext_authz.ledger.event import decode, decode_record
from ext_authz.observability.metrics import LIMIT_DRY_RUN, LIMIT_REFUSED
from ext_authz.policy.cel.expressions import Amount
from ext_authz.policy.issuers import Claims
from ext_authz.policy.model import (
    BUDGET,
    DEFAULT_PLAN,
    OVER_BUDGET,
    Algorithm,
    Cost,
    Failure,
    Limit,
    LimitRule,
    OnFailure,
    Plan,
    Policy,
)
from ext_authz.settlement.local import MemorySettlement
from ext_authz.settlement.model import Outcome, SettleRequest, SettleResult
from tests import tokens
from tests.fakes import FakeClock
from tests.unit.check.scenarios import POLICY, bearer, post

PEER = "10.0.0.7"


class LimitedCheck:
    """A check over a policy whose one limited route has these limits."""

    def __init__(
        self, *rules: LimitRule, fetch: Fetch | None = None, failure: Failure = POLICY.failure, **changes: object
    ) -> None:
        keep = Claims(POLICY.issuers[0].claims.roles, keep={"tenant": ("tenant",), "plan": ("plan",)})
        issuer = replace(POLICY.issuers[0], claims=keep)
        limited = (replace(route, limits=rules, failure=failure) for route in POLICY.routes if route.name == "infer")
        routes = (*limited, *(route for route in POLICY.routes if route.name != "infer"))
        self.policy: Policy = replace(POLICY, issuers=(issuer,), routes=routes, **changes)
        self.clock = FakeClock()
        self.settlement = Watched(self.clock)
        authenticator = TokenAuthenticator((issuer,), fetch=fetch or _keys, clock=self.clock, cache_size=100)
        self.check = module.Check(self.policy, authenticator, self.settlement, DecisionIds(self.clock))

    async def decide(self, request: Request) -> Decision:
        return await self.check.decide(request)

    async def key(self, request: Request) -> list[str]:
        """What the first limit counts by for this request."""
        await self.decide(request)
        return self.settlement.requests[-1].quota_requests[0].key.split("\x1f")[1:]


class Watched(MemorySettlement):
    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock)
        self.requests: list[SettleRequest] = []

    async def settle(self, ask: SettleRequest) -> SettleResult:
        self.requests.append(ask)
        return await super().settle(ask)


async def _keys(_url: str) -> bytes:
    return tokens.jwks(tokens.RSA)


def limited(*key: str, name: str = "limit", limit: int = 10, **changes: object) -> LimitRule:
    return replace(LimitRule(name, {DEFAULT_PLAN: Limit(name, key or ("user",), limit, 60)}), **changes)


def token(**claims: object) -> tuple[str, ...]:
    return (bearer(**claims),)


async def allowed(here: LimitedCheck, times: int, request: Request | None = None) -> int:
    return sum([isinstance(await here.decide(request or post()), Allow) for _ in range(times)])


# What is counted by.


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("user", f"kc:{tokens.ALICE}"),
        ("client", "kc:web-app"),
        ("path", "/v2/models/sentiment/infer"),
        ("model", "sentiment"),
        ("route", "infer"),
        ("ip", PEER),
        ("claim:tenant", "kc:acme"),
        ("claim:plan", "kc:"),
    ],
)
async def test_every_part_that_a_limit_can_count_by(part: str, value: str) -> None:
    here = LimitedCheck(limited(part))
    assert await here.key(post(source=PEER, authorization=token(tenant="acme"))) == [value]


async def test_the_settlement_gets_the_failure_mode_of_the_route() -> None:
    failure = Failure(redis=OnFailure.LOCAL, postgres=OnFailure.ALLOW, grace=7)
    here = LimitedCheck(limited(), failure=failure)
    await here.decide(post())
    assert here.settlement.requests[0].failure == failure


async def test_values_that_differ_are_counted_apart_and_in_the_order_of_the_key() -> None:
    here = LimitedCheck(limited("claim:tenant", "ip", limit=1))
    one, other = token(tenant="acme"), token(tenant="globex")
    assert await here.key(post(source=PEER, authorization=one)) == ["kc:acme", PEER]
    assert await allowed(here, 2, post(source=PEER, authorization=other)) == 1
    assert await allowed(here, 2, post(source="10.0.0.8", authorization=one)) == 1
    assert await allowed(here, 2, post(source=PEER, authorization=one)) == 0


async def test_a_claim_with_several_values_is_one_value_in_whatever_order() -> None:
    here = LimitedCheck(limited("claim:tenant"))
    assert await here.key(post(authorization=token(tenant=["b", "a"]))) == ["kc:a\x1eb"]
    assert await here.key(post(authorization=token(tenant=["a", "b"]))) == ["kc:a\x1eb"]
    assert await here.key(post(authorization=token(tenant="a,b"))) == ["kc:a,b"]


async def test_a_value_that_is_long_is_counted_by_its_hash() -> None:
    here = LimitedCheck(limited("claim:tenant"))
    long = [f"{'t' * 200}{number}" for number in range(10)]
    (first,), (second,) = [await here.key(post(authorization=token(tenant=values))) for values in (long, long[1:])]
    assert len(first) == len(second) == 255
    assert first != second


async def test_the_address_is_the_one_that_our_proxies_wrote_also_for_a_prepared_request() -> None:
    here = LimitedCheck(limited("ip"), trusted_hops=1)
    for address in ("203.0.113.9", "203.0.113.10", "203.0.113.9"):
        headers = {"x-forwarded-for": f"6.6.6.6, {address}"}
        assert await here.key(post(source=PEER, headers=headers)) == [address]
    assert await here.key(post(source=PEER)) == [PEER]


async def test_a_route_that_does_not_count_by_address_prepares_one_request_for_all() -> None:
    here = LimitedCheck(limited("user"))
    for number in range(5):
        await here.decide(post(source=f"10.0.0.{number}"))
    assert len(here.check._settle_requests._prepared) == 1


async def test_prepared_requests_stay_bounded_for_any_callers_and_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ext_authz.phases.settle_request._CACHE_BYTES", 10_000)
    here = LimitedCheck(limited("ip"))
    for number in range(100):
        await here.decide(post(source=f"10.0.0.{number}"))
        assert 0 < len(here.check._settle_requests._prepared) < 10


# For whom.

PLANS = (
    Plan("gold", roles=frozenset({"gold", "platinum"})),
    Plan("silver", claim="plan", values=frozenset({"silver"})),
)
BY_PLAN = replace(
    limited(), by_plan={plan: Limit("limit", ("user",), rate, 60) for plan, rate in (("gold", 5), ("default", 2))}
)


def in_roles(*roles: str) -> dict[str, object]:
    return {"realm_access": {"roles": ["infer", *roles]}}


@pytest.mark.parametrize(
    ("claims", "plan", "limit"),
    [
        (in_roles("gold"), "gold", 5),
        (in_roles("platinum"), "gold", 5),
        ({**in_roles("gold"), "plan": "silver"}, "gold", 5),
        ({"plan": "silver"}, "silver", 2),
        ({"plan": ["bronze", "silver"]}, "silver", 2),
        ({"plan": "bronze"}, "default", 2),
        ({}, "default", 2),
    ],
)
async def test_the_first_plan_that_applies_determines_the_rate(
    claims: dict[str, object], plan: str, limit: int
) -> None:
    here = LimitedCheck(BY_PLAN, plans=PLANS)
    decision = await here.decide(post(authorization=token(**claims)))
    assert decision.quotas[0].limit == limit
    record = decode_record(bytes(decode(here.settlement.requests[0].event).record))
    assert record
    assert record.plan == plan
    assert await allowed(here, 9, post(authorization=token(**claims))) == limit - 1


# How much.


def costing(cost: Cost) -> LimitRule:
    return limited(limit=100, cost=cost)


@pytest.mark.parametrize(
    ("headers", "cost"),
    [
        ({"x-batch-rows": "7"}, 7),
        ({"x-batch-rows": "0"}, 1),
        ({"x-batch-rows": "50"}, 50),
        ({"x-batch-rows": "51"}, 50),
        ({"x-batch-rows": "9" * 30}, 50),
        ({"x-batch-rows": "-3"}, 50),
        ({"x-batch-rows": "3,4"}, 50),
        ({"x-batch-rows": "3.5"}, 50),
        ({"x-batch-rows": "٣"}, 50),
        ({"x-batch-rows": ""}, 50),
        ({}, 50),
    ],
)
async def test_a_header_determines_the_cost_and_without_it_the_maximum(headers: dict[str, str], cost: int) -> None:
    here = LimitedCheck(costing(Cost(header="x-batch-rows", most=50)))
    decision = await here.decide(post(headers=headers))
    assert decision.quotas[0].remaining == 100 - cost


@pytest.mark.parametrize(
    ("text", "cost"),
    [
        ("int(request.headers['x-batch-rows']) * 2", 14),
        ("model.name == 'sentiment' ? 3 : 30", 3),
        ("size(identity.roles)", 3),
        ("0 - 5", 1),
        ("1000", 50),
        ("int(request.headers['absent'])", 50),
        ("int(request.headers['authorization'])", 50),
        ("time.epoch > 0 ? 2 : 9", 2),
    ],
)
async def test_an_expression_determines_the_cost(text: str, cost: int) -> None:
    here = LimitedCheck(costing(Cost(expression=Amount.compile(text), most=50)))
    decision = await here.decide(post(headers={"x-batch-rows": "7", "authorization": "12"}))
    assert decision.quotas[0].remaining == 100 - cost


async def test_each_request_has_its_own_cost_though_it_is_prepared_once() -> None:
    here = LimitedCheck(costing(Cost(header="x-batch-rows", most=50)), limited(name="calls", limit=5))
    left = []
    for rows in ("1", "10", "1"):
        decision = await here.decide(post(headers={"x-batch-rows": rows}))
        left.append(tuple(quota.remaining for quota in decision.quotas))
    assert left == [(99, 4), (89, 3), (88, 2)]
    assert len(here.check._settle_requests._prepared) == 1


async def test_a_cost_that_is_a_number() -> None:
    here = LimitedCheck(costing(Cost(amount=30, most=30)))
    assert await allowed(here, 9) == 3


@pytest.mark.parametrize("algorithm", [Algorithm.FIXED_WINDOW, Algorithm.SLIDING_WINDOW, Algorithm.GCRA])
async def test_what_never_fits_is_told_so_and_when_not_to_retry(algorithm: Algorithm) -> None:
    limit = Limit("limit", ("user",), 100, 60, algorithm, 20 if algorithm is Algorithm.GCRA else 0)
    here = LimitedCheck(LimitRule("limit", {DEFAULT_PLAN: limit}, Cost(header="x-batch-rows", most=500)))
    refused = await here.decide(post(headers={"x-batch-rows": "101"}))

    assert isinstance(refused, Deny)
    assert (refused.reason, refused.retry_after) == (Reason.OVER_LIMIT, 0)
    assert f"takes {20 if limit.burst else 100} at most" in refused.detail
    assert "never fits" in refused.detail
    assert isinstance(await here.decide(post(headers={"x-batch-rows": "20"})), Allow)


async def test_a_limit_by_the_calendar_is_told_by_its_period() -> None:
    month = Limit("month", ("user",), 1, 31 * 86_400, Algorithm.CALENDAR, 0, "month")
    here = LimitedCheck(LimitRule("month", {DEFAULT_PLAN: month}))
    await here.decide(post())
    refused = await here.decide(post())
    assert isinstance(refused, Deny)
    assert "1 per month is used up" in refused.detail
    assert refused.retry_after == 10 * 86_400 + 11 * 3600  # 20 November 13:00 to 1 December


# Dry run.


async def test_a_dry_run_limit_refuses_no_call_is_hidden_from_callers_and_reported() -> None:
    before = LIMIT_DRY_RUN.labels("trial")._value.get()
    here = LimitedCheck(limited(name="trial", limit=2, dry_run=True), limited(name="real", limit=5))
    decisions = [await here.decide(post()) for _ in range(7)]

    assert [isinstance(decision, Allow) for decision in decisions] == [True] * 5 + [False] * 2
    assert {tuple(quota.name for quota in decision.quotas) for decision in decisions} == {("real",)}
    assert "'real'" in decisions[-1].detail  # type: ignore[union-attr]
    assert LIMIT_DRY_RUN.labels("trial")._value.get() - before == 3
    outcomes = [outcome for _, outcome in here.settlement.ledger]
    assert outcomes == [Outcome.OK] * 2 + [Outcome.DRY_RUN_OVER] * 3 + [Outcome.LIMITED] * 2


# Budgets.


async def test_a_client_whose_budget_is_used_up_is_refused_and_nobody_else() -> None:
    before = LIMIT_REFUSED.labels(BUDGET)._value.get()
    here = LimitedCheck(limited(limit=3), OVER_BUDGET)
    assert await allowed(here, 1) == 1
    counter = f"{BUDGET}\x1fkc:web-app"
    assert counter not in here.settlement._limits._windows, "nothing is taken from it"
    ends = round(here.clock.now() * 1000) + 50_000
    here.settlement._limits._windows[counter] = (ends, 2)

    refused = await here.decide(post())
    assert isinstance(refused, Deny)
    assert (refused.reason, refused.code, refused.retry_after) == (Reason.OVER_LIMIT, "over_budget", 50)
    assert "the budget of this client's billing account is used up" in refused.detail
    assert [(quota.name, quota.remaining) for quota in refused.quotas] == [("limit", 2)], "and takes no quota"
    assert isinstance(await here.decide(post(authorization=token(azp="other"))), Allow)
    here.clock.advance(50)
    decision = await here.decide(post())
    assert isinstance(decision, Allow)
    assert [quota.name for quota in decision.quotas] == ["limit"]
    assert LIMIT_REFUSED.labels(BUDGET)._value.get() == before, "which is counted at the edge"


async def test_a_budget_is_no_quota_beside_dry_run_limits_and_costs() -> None:
    here = LimitedCheck(
        limited(name="trial", dry_run=True), limited(name="rows", cost=Cost(header="x-rows", most=9)), OVER_BUDGET
    )
    decision = await here.decide(post(headers={"x-rows": "4"}))
    assert isinstance(decision, Allow)
    assert [(quota.name, quota.remaining) for quota in decision.quotas] == [("rows", 6)]
    assert await allowed(LimitedCheck(OVER_BUDGET), 5) == 5
