"""Limits, flood and experiments as an operator writes them, counted by a real Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from ext_authz.check import Check
from ext_authz.db import redis_keys
from ext_authz.decision import Allow, Decision, DecisionIds, Deny, Request
from ext_authz.identity.authenticator import TokenAuthenticator
from ext_authz.ledger.stream import Row, StreamEntry, parse
from ext_authz.policy.load import load_policy
from ext_authz.policy.model import Policy
from ext_authz.settlement.model import Outcome
from tests import tokens
from tests.e2e.settlement.redis_world import RedisWorld
from tests.fakes import FakeClock
from tests.unit.check.scenarios import bearer, post

POLICY = f"""
version: 1
issuers:
  - name: kc
    issuer: {tokens.ISSUER}
    jwks_url: https://kc.example/certs
    audiences: [{tokens.AUDIENCE}]
    claims: {{keep: [tenant]}}
plans:
  gold: {{roles: [gold]}}
limits:
  user-minute: {{key: [user], plans: {{gold: 5/minute, default: 2/minute}}, algorithm: sliding_window}}
  tenant-month:
    key: ["claim:tenant"]
    rate: 100/month
    algorithm: calendar
    cost: {{header: x-batch-rows, max: 1000}}
  rows: {{key: [client], rate: 100/hour, cost: {{cel: "int(request.headers['x-batch-rows']) * 2", max: 1000}}}}
  address: {{key: [ip], rate: 3/minute}}
  trial: {{key: [route], rate: 1/day, dry_run: true}}
flood: {{rate: 1/minute, burst: 3}}
client_address: {{trusted_hops: 1}}
models:
  "*": {{call: {{any: [{{role: default-roles-ml}}, {{role: gold}}]}}}}
routes:
  - {{name: user, path: "/v2/models/{{model}}/infer", methods: [POST], limits: [user-minute]}}
  - {{name: tenant, path: /tenant, methods: [POST], limits: [tenant-month]}}
  - {{name: rows, path: /rows, methods: [POST], limits: [rows]}}
  - {{name: address, path: /address, methods: [POST], limits: [address]}}
  - {{name: trial, path: /trial, methods: [POST], limits: [trial]}}
experiments:
  sentiment-v2:
    model: sentiment
    weights: {{stable: 90, canary: 10}}
    override: {{header: x-experiment, values: {{try: canary}}, permission: {{role: gold}}}}
"""
GOLD = {"realm_access": {"roles": ["gold"]}}


class Mesh:
    """A check over that policy and Redis."""

    def __init__(self, check: Check, redis: RedisWorld) -> None:
        self.redis = redis
        self._check = check

    async def ask(self, request: Request) -> Decision:
        return await self._check.decide(request)

    async def allowed(self, times: int, request: Request) -> int:
        return sum([isinstance(await self.ask(request), Allow) for _ in range(times)])


async def _keys(_url: str) -> bytes:
    return tokens.jwks(tokens.RSA)


def mesh_over(redis: RedisWorld, policy: Policy) -> Mesh:
    clock = FakeClock()
    authenticator = TokenAuthenticator(policy.issuers, fetch=_keys, clock=clock, cache_size=100)
    return Mesh(Check(policy, authenticator, redis.settlement, DecisionIds(clock)), redis)


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    path = tmp_path_factory.mktemp("limits") / "policy.yaml"
    path.write_text(POLICY)
    return load_policy(path, {})


@pytest.fixture
async def mesh(redis_url: str, policy: Policy) -> AsyncIterator[Mesh]:
    async with RedisWorld(redis_url) as redis:
        yield mesh_over(redis, policy)


async def test_the_plan_determines_the_rate(mesh: Mesh) -> None:
    plain, gold = post(authorization=(bearer(),)), post(authorization=(bearer(sub="rich", **GOLD),))
    assert await mesh.allowed(4, plain) == 2
    assert await mesh.allowed(9, gold) == 5
    await mesh.redis.advance(50)
    assert await mesh.allowed(4, plain) == 0
    await mesh.redis.advance(11)
    assert await mesh.allowed(4, plain) == 2


async def test_a_tenant_pays_by_the_row_until_the_month_ends(mesh: Mesh) -> None:
    request = {"authorization": (bearer(tenant="acme"),), "headers": {"x-batch-rows": "40"}}
    assert await mesh.allowed(5, post("/tenant", **request)) == 2
    refused = await mesh.ask(post("/tenant", **request))
    assert isinstance(refused, Deny)
    assert "100 per month is used up" in refused.detail
    assert (await mesh.ask(post("/tenant", authorization=request["authorization"]))).retry_after == 0  # type: ignore[union-attr]
    other = post("/tenant", authorization=(bearer(tenant="globex"),), headers={"x-batch-rows": "100"})
    assert await mesh.allowed(2, other) == 1
    keys = [key async for key in mesh.redis.client.scan_iter(match=redis_keys.counter("tenant-month*"))]
    assert sorted(key.decode().split("\x1f")[1] for key in keys) == ["kc:acme", "kc:globex"]
    assert all([0 < await mesh.redis.client.pttl(key) <= 31 * 86_400_000 for key in keys])


async def test_an_expression_determines_the_cost(mesh: Mesh) -> None:
    request = post("/rows", authorization=(bearer(),), headers={"x-batch-rows": "20"})
    assert [quota.remaining for _ in range(2) for quota in (await mesh.ask(request)).quotas] == [60, 20]
    assert isinstance(await mesh.ask(request), Deny)


async def test_addresses_are_counted_behind_our_own_proxy(mesh: Mesh) -> None:
    def of(forwarded: str) -> Request:
        return post("/address", source="10.0.0.1", headers={"x-forwarded-for": forwarded}, authorization=(token,))

    token = bearer()
    assert await mesh.allowed(5, of("203.0.113.9")) == 3
    assert await mesh.allowed(5, of("203.0.113.9, 203.0.113.10")) == 3
    assert await mesh.allowed(2, of("203.0.113.11, 203.0.113.10:4711")) == 0


async def test_a_limit_in_dry_run_is_seen_in_the_ledger_only(mesh: Mesh) -> None:
    request = post("/trial", authorization=(bearer(),))
    decisions = [await mesh.ask(request) for _ in range(3)]
    assert [decision.quotas for decision in decisions] == [(), (), ()]
    assert all(isinstance(decision, Allow) for decision in decisions)
    assert [outcome for _, outcome in await mesh.redis.ledger()] == [Outcome.OK] + [Outcome.DRY_RUN_OVER] * 2
    entries = await mesh.redis.client.xrange(redis_keys.events())
    lines = [parse(StreamEntry(stamp.decode(), fields)) for stamp, fields in entries]
    printed = [dict(zip(("reason", "code"), line.cells[1:3], strict=True)) for line in lines if isinstance(line, Row)]
    assert printed == [{"reason": "allowed", "code": ""}] + [{"reason": "allowed", "code": "dry_run_over_limit"}] * 2


async def test_a_flood_does_not_come_as_far_as_redis(mesh: Mesh) -> None:
    known = post("/rows", authorization=(bearer(),), headers={"x-batch-rows": "1"})
    assert isinstance(await mesh.ask(known), Allow)
    for number in range(20):
        await mesh.ask(post("/rows", authorization=(f"Bearer x.{number}.z",)))
    assert isinstance(await mesh.ask(known), Allow)
    assert len(await mesh.redis.ledger()) == 2 + 3  # a burst of three refusals; the known caller takes none of it


async def test_a_variant_is_the_same_on_every_replica(mesh: Mesh, policy: Policy) -> None:
    found, replica = [], mesh_over(mesh.redis, policy)
    for number in range(30):
        token = (bearer(sub=f"user-{number}"),)
        request = post(source=f"10.0.{number}.1", authorization=token)
        answers = [await each.ask(request) for each in (mesh, replica)]
        found.append([answer.variant for answer in answers if isinstance(answer, Allow)])
    assert all(one == other for one, other in found)
    assert {one for one, _ in found} == {"stable", "canary"}


async def test_who_may_chooses_the_variant(mesh: Mesh) -> None:
    for number in range(3):
        token = (bearer(sub=f"user-{number}", **GOLD),)
        answer = await mesh.ask(post(authorization=token, headers={"x-experiment": "try"}))
        assert isinstance(answer, Allow)
        assert answer.variant == "canary"
