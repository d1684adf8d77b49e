"""POST /v2/repository/index: every caller of its route gets the models that they may see."""

from __future__ import annotations

from pathlib import Path

import pytest

from ext_authz.decision import Allow, Answer, Deny, Request
from ext_authz.phases.context import CheckContext, Trace
from ext_authz.policytool.callers import IdentityDocument, given_claims
from ext_authz.policytool.simulator import Simulator
from ext_authz.revocation.entry import Kind
from tests.unit.policy.writing import loaded

POLICY = """
version: 1
issuers:
  - {name: demo, issuer: "https://id.example/realms/ml", audiences: [gateway]}
limits:
  user: {key: [user], rate: 2/minute}
models:
  cancer: {roles: [doctor], administer: {role: operator}}
  sentiment: {roles: [infer], administer: {role: operator}}
  open: {visibility: public, call: {role: infer}, administer: {role: operator}}
  staged:
    call: {role: infer}
    administer: {role: operator}
    versions: {"1": {call: {role: infer}}, "2": {call: {role: tester}, see: {role: tester}}}
  "team-*": {roles: [team], administer: {role: operator}}
routes:
  - {name: index, path: /v2/repository/index, methods: [POST], limits: [user]}
  - {name: grpc-index, grpc: inference.GRPCInferenceService/RepositoryIndex}
"""
ALL = ("doctor", "infer", "team", "tester")
REST, GRPC = "/v2/repository/index", "/inference.GRPCInferenceService/RepositoryIndex"


class World(Simulator):
    def request(self, *roles: str, path: str = REST) -> Request:
        claims = given_claims(IdentityDocument(roles=roles), self.policy.issuers, self.clock.now())
        content_type = "application/json" if path == REST else "application/grpc"
        return Request("POST", "h", path, authorization=(self.callers.present(claims),), content_type=content_type)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(loaded(tmp_path, POLICY), 1_790_000_000)


@pytest.mark.parametrize(
    ("roles", "names"),
    [
        ((), ["open"]),
        (("infer",), ["sentiment", "open", "staged 1"]),
        (("infer", "tester"), ["sentiment", "open", "staged"]),
        (("doctor",), ["cancer", "open"]),
    ],
)
async def test_what_the_caller_may_see(world: World, roles: tuple[str, ...], names: list[str]) -> None:
    decision = await world.decide(world.request(*roles))
    assert isinstance(decision, Answer)
    assert isinstance(decision.document, list)
    assert [" ".join(row.values()) for row in decision.document] == names
    assert decision.route == "index"


async def test_who_administers_all_gets_tritons_own(world: World) -> None:
    decision = await world.decide(world.request(*ALL, "operator"))
    assert isinstance(decision, Allow)
    assert decision.every_model
    assert isinstance(await world.decide(world.request(*ALL)), Answer)
    world.clock.travel(60)
    assert isinstance(await world.decide(world.request("operator")), Answer), "who administers need not see"


async def test_over_grpc_it_takes_the_right_to_see_all(world: World) -> None:
    decision = await world.decide(world.request(*ALL, path=GRPC))
    assert isinstance(decision, Allow)
    assert decision.every_model


async def test_over_grpc_the_refusal_names_the_list(world: World) -> None:
    decision = await world.decide(world.request("infer", path=GRPC))
    assert isinstance(decision, Deny)
    assert decision.code == "model_forbidden"
    assert "GET /.tollgate/models" in decision.detail


async def test_an_answer_is_counted_recorded_and_refused_as_a_call_is(world: World) -> None:
    first = await world.decide(world.request("infer"))
    assert isinstance(first, Answer)
    assert [quota.remaining for quota in first.quotas] == [1]
    assert len(world.counters.ledger) == 1
    await world.decide(world.request("infer"))
    third = await world.decide(world.request("infer"))
    assert isinstance(third, Deny)
    assert third.code == "over_limit"
    world.counters.revoked.add(Kind.USER)
    assert isinstance(await world.decide(world.request("infer")), Deny)


async def test_policy_tools_show_the_response(world: World) -> None:
    response = (await world.check(world.request("infer"))).response
    assert (response.grpc, response.status) == ("OK", 200)
    assert response.body == '[{"name":"sentiment"},{"name":"open"},{"name":"staged","version":"1"}]'


async def test_the_trace_has_the_index(world: World) -> None:
    context = CheckContext(trace=Trace())
    await world._check.decide(world.request("infer"), context)
    assert context.trace is not None
    permission = context.trace.parts[0]
    assert permission.holds
    assert permission.parts[-1].what == "index of the models that the caller may see"


async def test_versions_that_the_policy_does_not_name_are_a_row_without_one(tmp_path: Path) -> None:
    before, _, after = POLICY.partition("models:")
    models = """models:
  called: {call: {role: infer}, see: {role: nobody}}
  others: {call: {role: infer}, versions: {"2": {call: {role: tester}}}}
"""
    world = World(loaded(tmp_path, before + models + after[after.index("routes:") :]), 1_790_000_000)
    decision = await world.decide(world.request("infer"))
    assert isinstance(decision, Answer)
    assert decision.document == [{"name": "others"}]
