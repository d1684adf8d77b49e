"""GET /.tollgate/quota: what is answered, what is refused, and that nothing is counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from ext_authz.check import Check
from ext_authz.decision import Allow, Answer, Decision, DecisionIds, Deny, Reason, Request
from ext_authz.identity.identity import Identity
from ext_authz.phases import quota_reads
from ext_authz.phases.access import has
from ext_authz.phases.quota_reads import AT_ONCE, MAX_MODELS
from ext_authz.policy.model import Failure, OnFailure
from ext_authz.policy.rights import Permission
from ext_authz.policytool.callers import GivenCallers, IdentityDocument, given_claims
from ext_authz.policytool.simulator import Counters, TravelClock
from ext_authz.revocation.entry import Kind
from tests.unit.policy.writing import loaded

POLICY = """
version: 1
issuers:
  - {name: demo, issuer: "https://id.example/realms/ml", audiences: [gateway], claims: {keep: [tenant]}}
plans:
  gold: {roles: [gold]}
limits:
  user: {key: [user], plans: {gold: 100/minute, default: 10/minute}}
  burst: {key: [user], rate: 60/hour, algorithm: gcra, burst: 5}
  rolling: {key: [user], rate: 20/minute, algorithm: sliding_window, cost: 2}
  month: {key: ["claim:tenant"], rate: 1000/month, algorithm: calendar}
  path: {key: [path], rate: 100/minute}
  by-model: {key: [user, model], rate: 50/minute, cost: {header: x-rows, max: 7}}
  quiet: {key: [user], rate: 3/minute, dry_run: true}
  tenant: {key: ["claim:tenant"], rate: 7/minute}
  files: {key: [client], rate: 5/minute}
models:
  cancer: {roles: [doctor]}
  sentiment: {roles: [infer]}
  staged: {call: {role: infer}, versions: {"2": {call: {role: tester}}}}
routes:
  - {name: live, path: /v2/health/live, methods: [GET], public: true}
  - name: infer
    operation: infer
    limits: [user, burst, rolling, month, path, by-model, quiet]
  - {name: files, path: "/files/{rest=**}", methods: [GET], limits: [files]}
  - {name: night, path: /night, methods: [GET], limits: [tenant], when: "request.headers['x-shift'] == 'night'"}
  - {name: admin, path: /admin, methods: [GET], roles: [admin], limits: [user, path]}
  - {name: stats, path: /v2/models/stats, methods: [GET], limits: [files]}
"""
INFER = "/v2/models/sentiment/infer"


class World:
    """A check over this policy, with counters in memory."""

    def __init__(self, place: Path, policy: str = POLICY) -> None:
        self.clock = TravelClock(1_790_000_000)
        self.policy = loaded(place, policy)
        self.callers = GivenCallers(self.policy.issuers, self.clock)
        self.counters = Counters(self.clock)

    def built(self, **changes: object) -> World:
        self.check = Check(replace(self.policy, **changes), self.callers, self.counters, DecisionIds(self.clock))
        return self

    def token(self, *roles: str, user: str = "alice", tenant: str = "acme") -> tuple[str, ...]:
        identity = IdentityDocument(user=user, roles=roles or ("infer",), claims={"tenant": tenant})
        return (self.callers.present(given_claims(identity, self.policy.issuers, self.clock.now())),)

    async def call(self, path: str = INFER, method: str = "POST", **changes: object) -> Decision:
        fields = {"authorization": self.token(), "content_type": "application/json"} | changes
        return await self.check.decide(Request(method, "models.example", path, **fields))  # type: ignore[arg-type]

    async def decide(self, query: str = "", **changes: object) -> Decision:
        return await self.call(changes.pop("path", "/.tollgate/quota"), **{"method": "GET", "query": query} | changes)  # type: ignore[arg-type]

    async def read(self, query: str = "", **changes: object) -> dict[str, Any]:
        decision = await self.decide(query, **changes)
        assert isinstance(decision, Answer), decision
        return json.loads(msgspec.json.encode(decision.document))  # type: ignore[no-any-return]

    async def limits(self, query: str = "", **changes: object) -> list[dict[str, Any]]:
        return (await self.read(query, **changes))["limits"]  # type: ignore[no-any-return]

    async def refused(self, query: str = "", **changes: object) -> tuple[Reason, str]:
        decision = await self.decide(query, **changes)
        assert isinstance(decision, Deny), decision
        return decision.reason, decision.code


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path).built()


def named(limits: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [limit for limit in limits if limit["name"] == name]


# What is answered.


async def test_every_algorithm_is_read_from_the_counters_of_the_checks(world: World) -> None:
    for _ in range(2):
        assert isinstance(await world.call(), Allow)
    world.clock.travel(6)
    found = await world.read()
    assert found["plan"] == "default"
    expected = (
        ("user", {"limit": 10, "window": 60, "cost": 1, "used": 2, "remaining": 8, "reset": 54}),
        ("burst", {"limit": 60, "window": 3600, "cost": 1, "burst": 5, "used": 2, "remaining": 3, "reset": 114}),
        ("rolling", {"limit": 20, "window": 60, "cost": 2, "used": 4, "remaining": 16, "reset": 54}),
    )
    for name, figures in expected:
        assert named(found["limits"], name) == [{"name": name, "by": {"user": "demo:alice"}, **figures}]
    (month,) = named(found["limits"], "month")
    assert (month["period"], month["by"], month["used"]) == ("month", {"claim:tenant": "demo:acme"}, 2)
    assert named(found["limits"], "quiet") == [], "a dry-run limit is for operators"


async def test_a_boost_and_a_budget_are_not_shown_as_use(tmp_path: Path) -> None:
    world = World(tmp_path, POLICY.replace("models:", "over_budget: refuse\nmodels:", 1)).built()
    assert isinstance(await world.call(), Allow)
    limits = await world.limits()
    assert named(limits, "budget") == []
    ends = round(world.clock.now() * 1000) + 60_000
    world.counters._limits._windows["user\x1fdemo:alice"] = (ends, -4)
    (user,) = named(await world.limits(), "user")
    assert (user["used"], user["remaining"]) == (0, 14)


async def test_limits_of_a_call_are_read_for_each_model_that_the_caller_may_call(world: World) -> None:
    await world.call()
    limits = await world.limits()
    paths = [INFER, "/inference.GRPCInferenceService/ModelInfer"]
    assert [(limit["by"]["path"], limit["used"]) for limit in named(limits, "path")] == [(paths[0], 1), (paths[1], 0)]
    (by_model,) = named(limits, "by-model")
    assert (by_model["by"], by_model["cost"]) == ({"user": "demo:alice", "model": "sentiment"}, 7)


async def test_a_model_behind_kserve_v1_has_its_limits_too(tmp_path: Path) -> None:
    v1 = POLICY.replace("operation: infer\n", 'path: "/v1/models/{model}:predict"\n    methods: [POST]\n')
    world = World(tmp_path, v1).built()
    assert isinstance(await world.call("/v1/models/sentiment:predict"), Allow)
    for query in ("", "model=sentiment", "path=/v1/models/sentiment:predict"):
        (path,) = named(await world.limits(query), "path")
        assert (path["by"], path["used"]) == ({"path": "/v1/models/sentiment:predict"}, 1)
    assert await world.refused("model=cancer") == (Reason.FORBIDDEN, "model_forbidden")
    assert await world.refused("model=sentiment&version=1") == (Reason.NO_ROUTE, "route_unknown")


async def test_a_limit_by_path_counts_what_the_upstream_reads(tmp_path: Path) -> None:
    for encoding, read in (("opaque", "/n/a%20b"), ("decoded", "/n/a b")):
        route = f"  - {{name: n, path: '/n/{{name}}', methods: [GET], limits: [path], encoding: {encoding}}}\n"
        world = World(tmp_path, POLICY + route).built()
        assert isinstance(await world.call("/n/a%20b", "GET"), Allow)
        (path,) = named(await world.limits("path=/n/a%2520b&method=GET"), "path")
        assert (path["by"], path["used"]) == ({"path": read}, 1)


async def test_what_others_count_in_is_read_only_by_who_may_call(world: World) -> None:
    await world.call()
    nobody = world.token("other")
    limits = await world.limits(authorization=nobody)
    assert {limit["name"]: limit.get("needs") for limit in limits} == {
        "user": None,
        "burst": None,
        "rolling": None,  # the caller's own, of a route that any caller may use
        "month": ["path"],
        "path": ["path"],
        "by-model": ["model"],
        "tenant": ["path"],
        "files": None,
    }
    assert "remaining" not in named(limits, "month")[0]
    assert named(limits, "by-model")[0]["by"] == {"user": "demo:alice"}
    assert await world.refused("model=sentiment", authorization=nobody) == (Reason.FORBIDDEN, "model_forbidden")
    assert await world.refused(f"path={INFER}", authorization=nobody) == (Reason.FORBIDDEN, "model_forbidden")


@pytest.mark.parametrize(
    "path",
    ["/v2/models/{name}/infer", "/v2/models/{rest=**}", "/v2/repository/{rest=**}", "/v1/models/sentiment/versions/1"],
)
async def test_a_path_that_can_name_a_model_is_not_read_without_it(tmp_path: Path, path: str) -> None:
    route = f'  - {{name: other, path: "{path}", methods: [POST], limits: [tenant]}}\n  - {{name: night'
    world = World(tmp_path, POLICY.replace("  - {name: night", route)).built()
    limits = await world.limits(authorization=world.token("other"))
    assert [limit["needs"] for limit in named(limits, "tenant")] == [["path"]]


async def test_a_condition_decides_on_the_call_that_is_described(world: World) -> None:
    by_day = await world.refused("path=/night&method=GET")
    (tenant,) = await world.limits("path=/night&method=GET", headers={"x-shift": "night"})
    assert by_day == (Reason.FORBIDDEN, "condition_false")
    assert tenant["remaining"] == 7


async def test_routes_without_permission_do_not_count(world: World) -> None:
    assert await world.refused("path=/admin&method=GET") == (Reason.FORBIDDEN, "role_missing")
    assert "path" in {limit["name"] for limit in await world.limits(authorization=world.token("admin"))}


async def test_one_model_one_version_or_one_call(world: World) -> None:
    await world.call()
    of_model = await world.limits("model=sentiment")
    of_call = await world.limits(f"path={INFER}")
    of_version = await world.limits("model=staged&version=1")
    over_grpc = await world.limits("path=/inference.GRPCInferenceService/ModelInfer&model=sentiment")
    assert {limit["by"]["path"] for limit in named(of_model, "path")} > {INFER}
    assert [limit["by"] for limit in named(of_call, "path")] == [{"path": INFER}]
    assert named(of_version, "path")[0]["by"] == {"path": "/v2/models/staged/versions/1/infer"}
    assert [limit["by"]["model"] for limit in named(over_grpc, "by-model")] == ["sentiment"]
    assert await world.refused("model=staged") == (Reason.FORBIDDEN, "model_forbidden")
    assert (await world.limits("model=staged", authorization=world.token("infer", "tester"))) != []


async def test_a_public_call_has_no_limits(world: World) -> None:
    assert await world.limits("path=/v2/health/live&method=GET") == []
    assert await world.limits("path=/.tollgate/quota&method=GET") == []
    assert await world.limits("path=/night&method=OPTIONS") == [], "answered with the methods"


async def test_of_many_models_limits_are_only_named(tmp_path: Path) -> None:
    many = "".join(f"  m{number}: {{roles: [infer]}}\n" for number in range(MAX_MODELS))
    world = World(tmp_path, POLICY.replace("models:\n", f"models:\n{many}")).built()
    limits = await world.limits()
    assert [limit["needs"] for limit in (*named(limits, "path"), *named(limits, "by-model"))] == [["path"], ["model"]]
    assert named(limits, "month")[0]["remaining"] == 1000
    assert named(await world.limits("model=m1"), "by-model")[0]["remaining"] == 50


async def test_a_read_does_not_grow_with_routes_of_one_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    routes = "".join(f"  - {{name: r{i}, path: /r{i}, methods: [GET], limits: [user]}}\n" for i in range(100))
    world = World(tmp_path, POLICY + routes).built()
    looked_at: list[object] = []

    def looked(identity: Identity, permission: Permission) -> bool:
        looked_at.append(permission)
        return has(identity, permission)

    monkeypatch.setattr(quota_reads, "permitted", looked)
    assert len(named(await world.limits(), "user")) == 1
    assert len(looked_at) < 10


async def test_without_plans_no_plan_is_named(tmp_path: Path) -> None:
    text = POLICY.replace("plans:\n  gold: {roles: [gold]}\n", "").replace("gold: 100/minute, ", "")
    assert set(await World(tmp_path, text).built().read()) == {"limits"}


async def test_limits_of_the_caller_alone_need_no_call(tmp_path: Path) -> None:
    text = POLICY.replace("[user, burst, rolling, month, path, by-model, quiet]", "[user]").replace(
        "[user, path]", "[user]"
    )
    limits = await World(tmp_path, text.replace("limits: [tenant], when", "when")).built().limits()
    assert {limit["name"] for limit in limits} == {"user", "files"}


async def test_the_plan_of_the_caller_counts(world: World) -> None:
    found = await world.read(authorization=world.token("gold"))
    assert (found["plan"], named(found["limits"], "user")[0]["limit"]) == ("gold", 100)


# What is not.


async def test_nothing_is_counted_and_nothing_is_recorded(world: World) -> None:
    await world.call()
    before, events = await world.limits(), len(world.counters.ledger)
    for _ in range(3):
        assert await world.limits() == before
    assert len(world.counters.ledger) == events
    decision = await world.call()
    assert isinstance(decision, Allow)
    assert {quota.name: quota.remaining for quota in decision.quotas}["user"] == 8


async def test_a_revoked_caller_reads_nothing(world: World) -> None:
    world.counters.revoked.add(Kind.USER)
    decision = await world.decide()
    assert isinstance(decision, Deny)
    assert (decision.reason, decision.revoked_by) == (Reason.REVOKED, "user")
    (event, _), *more = world.counters.ledger
    assert more == []
    for recorded in (decision.decision_id, '"reason":"revoked"', '"revoked_by":"user"'):
        assert recorded in event.decode()


@pytest.mark.parametrize(
    "query",
    ["x", "user=bob", "model=a&model=b", "method=GET", "model=sentiment&", "path=%2F&x=1"],
)
async def test_a_query_that_is_not_understood(world: World, query: str) -> None:
    assert await world.refused(query) == (Reason.BAD_REQUEST, "query_not_understood")


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("model=", "model_not_canonical"),
        ("version=1", "model_not_canonical"),
        ("model=..%2F..%2Fx", "model_not_canonical"),
        ("model=sentiment&version=01", "version_not_canonical"),
        ("path=", "path_not_canonical"),
        ("path=//x", "path_not_canonical"),
        ("path=/%252e%252e/x", "path_not_canonical"),
        ("path=/inference.GRPCInferenceService/ModelInfer", "model_missing"),
    ],
)
async def test_names_are_as_strict_as_in_a_call(world: World, query: str, code: str) -> None:
    assert await world.refused(query) == (Reason.BAD_REQUEST, code)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"query": "path=/nothing"}, (Reason.NO_ROUTE, "route_unknown")),
        ({"query": "path=/night"}, (Reason.METHOD_NOT_ALLOWED, "method_not_allowed")),
        ({"method": "POST"}, (Reason.METHOD_NOT_ALLOWED, "method_not_allowed")),
        ({"path": "/.tollgate/quota/"}, (Reason.NO_ROUTE, "route_unknown")),
        ({"path": "/.tollgate/other"}, (Reason.NO_ROUTE, "route_unknown")),
        ({"path": "/.tollgate"}, (Reason.NO_ROUTE, "route_unknown")),
        ({"authorization": ()}, (Reason.NO_CREDENTIAL, "credential_missing")),
        ({"query": "access_token=x"}, (Reason.INVALID_REQUEST, "credential_in_query")),
        ({"content_type": "application/grpc"}, (Reason.BAD_REQUEST, "protocol_mismatch")),
    ],
)
async def test_what_is_refused_as_a_call_would_be(
    world: World, fields: dict[str, object], expected: tuple[Reason, str]
) -> None:
    assert await world.refused(**fields) == expected  # type: ignore[arg-type]


async def test_no_wide_route_serves_the_reserved_prefix(tmp_path: Path) -> None:
    wide = '  - {name: all, path: "/{rest=**}", methods: [GET], hosts: [models.example], public: true}\n'
    world = World(tmp_path, POLICY + wide).built()
    assert isinstance(await world.call("/anything", "GET"), Allow)
    assert (await world.refused(path="/.tollgate/other"))[0] is Reason.NO_ROUTE
    assert await world.limits() != []


async def test_a_model_without_a_route_is_not_found(tmp_path: Path) -> None:
    world = World(tmp_path, POLICY.replace("operation: infer", "path: /predict\n    methods: [POST]")).built()
    assert await world.refused("model=sentiment") == (Reason.NO_ROUTE, "route_unknown")


async def test_reads_of_one_caller_are_bounded(world: World) -> None:
    for _ in range(AT_ONCE):
        await world.read()
    decision = await world.decide()
    assert isinstance(decision, Deny)
    assert (decision.reason, decision.code, decision.retry_after) == (Reason.OVER_LIMIT, "quota_reads", 1)
    assert await world.limits(authorization=world.token(user="bob")) != []
    world.clock.travel(1)
    assert await world.limits() != []


# Without Redis.


@pytest.mark.parametrize("mode", [OnFailure.DENY, OnFailure.ALLOW])
async def test_without_counters_there_is_no_answer(world: World, mode: OnFailure) -> None:
    world.built(failure=Failure(redis=mode, postgres=OnFailure.ALLOW)).counters.switch("redis", up=False)
    assert await world.refused() == (Reason.UNAVAILABLE, "redis_unavailable")


async def test_local_counters_are_read_while_they_count(world: World) -> None:
    local = Failure(redis=OnFailure.LOCAL, postgres=OnFailure.LOCAL, local_share=0.5)
    routes = tuple(replace(route, failure=local) for route in world.policy.routes)
    world.built(failure=local, routes=routes).counters.switch("redis", up=False)
    before = await world.limits()
    assert await world.limits() == before
    called = await world.call()
    assert isinstance(called, Allow)
    after = {quota.name: quota.remaining for quota in called.quotas}
    for limit in before:
        if limit["name"] in after and limit["by"].get("path", INFER) == INFER:
            assert limit["remaining"] == after[limit["name"]] + limit["cost"]
    decision = await world.decide()
    assert isinstance(decision, Answer)
    assert decision.degraded == "redis"
