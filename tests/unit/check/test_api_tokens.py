"""What an API token may do: never more than its owner, whatever it leaves out, and no other models than it names."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from ext_authz.check import Check
from ext_authz.decision import Allow, Answer, Decision, DecisionIds, Deny, Principal, Request
from ext_authz.identity.identity import Identity
from ext_authz.ledger.event import DecisionRecord, about_caller
from ext_authz.phases.access import may, may_all
from ext_authz.phases.context import CheckContext, Trace
from ext_authz.phases.descriptors import plan_of
from ext_authz.policy.kserve import Right
from ext_authz.policy.model import Policy
from ext_authz.policy.rights import ModelNames
from ext_authz.policytool.simulator import Counters, TravelClock
from ext_authz.settlement.model import SEPARATOR
from tests.unit.policy.writing import loaded

POLICY = """
version: 1
issuers:
  - {name: demo, issuer: "https://id.example/realms/ml", audiences: [gateway]}
plans:
  slow: {roles: [trial]}
limits:
  token: {key: [token], plans: {slow: 5/minute, default: 10/minute}}
  priced: {key: [user], rate: 100/minute, cost: {cel: "'trial' in identity.roles ? 9 : 1", max: 9}}
models:
  cancer: {roles: [doctor]}
  sentiment: {roles: [infer], administer: {role: operator}}
  closed: {call: {all: [{role: infer}, {not: {role: contractor}}]}}
  "team-*": {roles: [infer]}
experiments:
  sentiment:
    model: sentiment
    salt: s
    weights: {a: 100, b: 0}
    override: {header: x-variant, values: {b: b}, permission: {not: {role: contractor}}}
routes:
  - {name: infer, operation: infer, limits: [token, priced]}
  - {name: stream, grpc: inference.GRPCInferenceService/ModelStreamInfer}
  - {name: index, operation: repository}
  - {name: staff, path: /staff, methods: [GET], permission: {not: {role: contractor}}}
  - {name: night, path: /night, methods: [GET], when: "!('contractor' in identity.roles)"}
"""
NOW = 1_790_000_000


def owner(*roles: str) -> Identity:
    return Identity(
        principal=Principal("https://id.example/realms/ml", "alice", "tollgate:ci", roles, "jti-1"),
        issuer_name="demo",
        session="grant-1",
        issued_at=NOW,
        expires_at=NOW + 300.0,
        audiences=("gateway",),
        scopes=frozenset(),
        roles=frozenset(roles),
        grant="grant-1",
    )


def token(whole: Identity, *roles: str, models: tuple[str, ...] | None = None) -> Identity:
    """With these of the owner's roles only."""
    narrowed = replace(whole, roles=frozenset(roles), owner=whole) if frozenset(roles) != whole.roles else whole
    return replace(narrowed, models=None if models is None else ModelNames(models))


class World:
    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        clock = TravelClock(NOW)
        self.caller = owner()
        self.check = Check(policy, self, Counters(clock), DecisionIds(clock))

    def cached(self, _authorization: str, _grace: float) -> Identity:
        return self.caller

    async def authenticate(self, *_: object) -> Identity:
        return self.caller

    async def decide(self, caller: Identity, request: Request, context: CheckContext | None = None) -> Decision:
        self.caller = caller
        return await self.check.decide(request, context)

    async def detail(self, caller: Identity, request: Request) -> str:
        """Of the refusal; empty where it is allowed."""
        decision = await self.decide(caller, request)
        return f"{decision.code}: {decision.detail}" if isinstance(decision, Deny) else ""


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(loaded(tmp_path, POLICY))


def infer(model: str, **headers: str) -> Request:
    return Request("POST", "h", f"/v2/models/{model}/infer", authorization=("Bearer t",), headers=headers)


def get(path: str) -> Request:
    return Request("GET", "h", path, authorization=("Bearer t",))


def grpc(method: str, model: str = "") -> Request:
    path = f"/inference.GRPCInferenceService/{method}"
    models = (model,) if model else ()
    return Request("POST", "h", path, authorization=("Bearer t",), content_type="application/grpc", models=models)


INFER, DOCTOR = owner("infer"), owner("infer", "doctor")


@pytest.mark.parametrize(
    ("models", "model", "allowed"),
    [
        (None, "sentiment", True),
        (("sentiment",), "sentiment", True),
        (("sentiment",), "team-a", False),
        (("team-*",), "team-a", True),
        (("team-*",), "sentiment", False),
        (("*",), "sentiment", True),
        ((), "sentiment", False),
        (("cancer",), "cancer", False),
        (("*",), "unknown", False),
    ],
)
async def test_models_over_both_protocols(
    world: World, models: tuple[str, ...] | None, model: str, allowed: object
) -> None:
    limited = token(INFER, "infer", models=models)
    assert isinstance(await world.decide(limited, infer(model)), Allow) is allowed
    assert isinstance(await world.decide(limited, grpc("ModelInfer", model)), Allow) is allowed
    assert may(limited, Right.CALL, model, "", world.policy) is allowed


async def test_a_refusal_names_the_limit_whether_the_owner_may_or_not(world: World) -> None:
    limited = token(INFER, "infer", models=("sentiment",))
    for model in ("team-a", "cancer", "unknown"):
        assert f"limited to other models than {model!r}" in await world.detail(limited, infer(model))
    for model in ("cancer", "unknown"):
        assert (
            await world.detail(INFER, infer(model)) == f"model_forbidden: this token may not call the model {model!r}"
        )


async def test_a_stream_needs_every_model(tmp_path: Path) -> None:
    world = World(loaded(tmp_path, POLICY.replace("  cancer: {roles: [doctor]}\n", "")))
    for models in (None, ("*",), ("sentiment", "closed", "team-*")):
        limited = token(INFER, "infer", models=models)
        assert isinstance(await world.decide(limited, grpc("ModelStreamInfer")), Allow), models
    nearly = token(INFER, "infer", models=("sentiment", "closed", "team-a"))
    assert "reach every model" in await world.detail(nearly, grpc("ModelStreamInfer"))
    assert not may_all(nearly, Right.CALL, world.policy)


async def test_the_index_shows_what_may_be_called(world: World) -> None:
    request = Request("POST", "h", "/v2/repository/index", authorization=("Bearer t",))
    for caller, names in (
        (DOCTOR, ["cancer", "sentiment", "closed"]),
        (token(DOCTOR, "infer"), ["sentiment", "closed"]),
        (token(DOCTOR, "doctor", "infer", models=("cancer", "team-*")), ["cancer"]),
        (token(owner("infer", "contractor"), "infer"), ["sentiment"]),
    ):
        decision = await world.decide(caller, request)
        assert isinstance(decision, Answer)
        assert [row["name"] for row in msgspec.convert(decision.document, list[dict[str, str]])] == names


async def test_leaving_a_role_out_gives_nothing(world: World) -> None:
    """What is for those who lack a role, its owner does not get by a token without it."""
    whole = owner("infer", "contractor")
    narrowed = token(whole, "infer")
    for request in (get("/staff"), get("/night"), infer("closed")):
        assert await world.detail(INFER, request) == ""
        assert await world.detail(whole, request) != ""
        assert await world.detail(narrowed, request) == await world.detail(whole, request)
    assert isinstance(await world.decide(narrowed, infer("sentiment")), Allow)


async def test_leaving_a_role_out_takes_what_it_gives(world: World) -> None:
    assert isinstance(await world.decide(DOCTOR, infer("cancer")), Allow)
    assert "model_forbidden" in await world.detail(token(DOCTOR, "infer"), infer("cancer"))


async def test_nor_another_plan_cost_or_variant(world: World) -> None:
    whole = owner("infer", "trial", "contractor")
    narrowed = token(whole, "infer")
    assert plan_of(narrowed, world.policy.plans) == "slow"
    for caller in (whole, narrowed):
        decision = await world.decide(caller, infer("sentiment", **{"x-variant": "b"}))
        assert isinstance(decision, Allow)
        assert decision.variant == "a"
        assert [quota.limit for quota in decision.quotas] == [5, 100]
    assert [quota.remaining for quota in decision.quotas] == [3, 100 - 2 * 9]
    allowed = await world.decide(INFER, infer("sentiment", **{"x-variant": "b"}))
    assert isinstance(allowed, Allow)
    assert allowed.variant == "b"


async def test_a_renewed_token_keeps_its_quota(world: World) -> None:
    keys = []
    for identity in (
        INFER,
        replace(INFER, principal=replace(INFER.principal, token_id="jti-2")),
        replace(INFER, grant=""),
    ):
        context = CheckContext()
        await world.decide(identity, infer("sentiment"), context)
        assert context.settle_request is not None
        keys.append(context.settle_request.quota_requests[0].key.split(SEPARATOR)[1])
    assert keys == ["demo:grant-1", "demo:grant-1", "demo:jti-1"]


async def test_a_trace_says_what_the_token_is_limited_to(world: World) -> None:
    def said(trace: Trace) -> list[str]:
        return [trace.what, *(line for part in trace.parts for line in said(part))]

    whole = owner("infer", "contractor")
    for request in (infer("team-a"), grpc("ModelStreamInfer"), infer("closed")):
        context = CheckContext(trace=Trace())
        await world.decide(token(whole, "infer", models=("sentiment", "closed")), request, context)
        assert context.trace is not None
        lines = said(context.trace)
        assert "the owner of the token, with all that they have" in lines
        denied_to_owner = request != infer("team-a")
        assert ("the token is limited to the models sentiment, closed" in lines) is not denied_to_owner
    assert not may(token(whole, "infer"), Right.CALL, "closed", "", world.policy, trace := Trace())
    assert "the owner of the token may" in said(trace)


def test_the_ledger_has_what_it_takes_to_decide_again() -> None:
    whole = owner("infer", "contractor")
    record = DecisionRecord(**about_caller(token(whole, "infer", models=("team-*",))))
    assert (record.api_token, record.session, record.models) == (True, "grant-1", ("team-*",))
    assert record.owner == {"roles": ("contractor", "infer"), "scopes": (), "groups": ()}
    plain = DecisionRecord(**about_caller(replace(INFER, grant="")))
    assert (plain.api_token, plain.models, plain.owner) == (False, None, {})


def test_what_is_too_long_is_said_to_be_left_out() -> None:
    whole = owner(*(f"role-{number}" for number in range(500)))
    models = tuple(f"model-{number}" for number in range(500))
    record = DecisionRecord(**about_caller(token(whole, "role-1", models=models)))
    assert record.left_out == ("models", "owner.roles")
    assert "roles" not in record.owner


async def test_a_new_name_is_no_new_quota_by_client_and_nobody_shares_the_name_of_another(tmp_path: Path) -> None:
    policy = POLICY.replace(
        "{key: [token], plans: {slow: 5/minute, default: 10/minute}}", "{key: [client], rate: 10/minute}"
    )
    world = World(loaded(tmp_path, policy))

    async def counted(caller: Identity) -> str:
        context = CheckContext()
        await world.decide(caller, infer("sentiment"), context)
        assert context.settle_request is not None
        return context.settle_request.quota_requests[0].key

    who = INFER.principal
    named = replace(INFER, principal=replace(who, client="tollgate:other"), grant="grant-2")
    somebody = replace(INFER, principal=replace(who, subject="bob"))
    provider = replace(INFER, principal=replace(who, client="web"), grant="")
    keys = [await counted(each) for each in (INFER, named, somebody, provider)]
    assert keys[0] == keys[1]
    assert keys[2:] == [SEPARATOR.join(("token", f"demo:{client}")) for client in ("tollgate:bob", "web")]


async def test_months_begin_on_the_billing_day_of_the_client_and_of_api_tokens_on_that_of_their_owner(
    tmp_path: Path,
) -> None:
    days = 'billing_days: {demo: {web: 15, alice: 31, "tollgate:batch": 9}}\nroutes:'
    limit = "{key: [client], rate: 10/month, algorithm: calendar, anchor: billing}"
    policy = POLICY.replace("{key: [token], plans: {slow: 5/minute, default: 10/minute}}", limit)
    world = World(loaded(tmp_path, policy.replace("routes:", days, 1)))

    async def after_first(caller: Identity) -> int:
        context = CheckContext()
        await world.decide(caller, infer("sentiment"), context)
        assert context.settle_request is not None
        return context.settle_request.quota_requests[0].window_ms - 31 * 86_400_000

    who = INFER.principal
    assert who.subject == "alice"
    callers = [INFER, *(replace(INFER, principal=replace(who, client=each), grant="") for each in ("web", "other"))]
    assert [await after_first(each) for each in callers] == [30, 14, 0]
    assert await after_first(replace(callers[1], issuer_name="elsewhere")) == 0
