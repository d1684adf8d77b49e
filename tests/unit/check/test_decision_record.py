"""What the ledger keeps of a decision besides its outcome: enough to explain it, and never a credential."""

from __future__ import annotations

import json

import pytest
from msgspec.structs import replace

from ext_authz import check as module
from ext_authz.decision import Request
from ext_authz.errors import Unavailable
from ext_authz.ledger.event import NO_RECORD, DecisionRecord, Event, decode, decode_record
from ext_authz.phases.context import CheckContext
from ext_authz.phases.settle_request import SettleRequests
from ext_authz.policy.model import Failure, OnFailure
from ext_authz.settlement.model import Outcome, SettleResult
from tests import tokens
from tests.fakes import FakeJwks
from tests.unit.check.scenarios import ALL_WELL, POLICY, SCENARIOS, ScriptedSettlement, World, bearer, grpc, post, world
from tests.unit.check.test_limits import LimitedCheck, limited


async def event_of(request: Request, answer: SettleResult | Unavailable = ALL_WELL, here: World | None = None) -> Event:
    here = here or world(answer, module)
    decision = await here.decide(request)
    events = here.settlement.recorded + [decode(ask.event) for ask in here.settlement.requests]
    return next(event for event in reversed(events) if event.decision_id == decision.decision_id)


async def known(request: Request) -> DecisionRecord:
    record = decode_record(bytes((await event_of(request)).record))
    assert record is not None
    return record


async def test_a_call_that_was_settled() -> None:
    record = await known(post(source="10.0.0.7"))
    assert (record.host, record.source, record.operation, record.grpc) == ("models.example", "10.0.0.7", "infer", False)
    assert record.roles == ("default-roles-ml", "infer", "offline_access")
    assert (record.audiences, record.left_out) == ((tokens.AUDIENCE, "account"), ())
    assert 0 < record.issued_at < record.expires_at
    assert [key.split("\x1f")[0] for key in record.limits] == ["user", "path"]


@pytest.mark.parametrize("path", ["/v2/models/sentiment/infer", "/v2/models/cancer/infer", "/nothing"])
async def test_an_event_names_the_policy_that_decided(path: str) -> None:
    assert (await event_of(post(path))).policy == POLICY.hash


async def test_a_long_method_and_path_are_cut() -> None:
    event = await event_of(post("/" + "a" * 600, method="M" * 20))
    assert (event.method, event.path) == ("M" * 16, "/" + "a" * 511)


async def test_model_and_version_are_those_of_each_call_though_the_rest_is_prepared_once() -> None:
    here = world(ALL_WELL, module)
    for model, version in (("sentiment", ""), ("sentiment", "1"), ("staged", "1"), ("sentiment", "")):
        event = await event_of(grpc(models=(model,), versions=(version,) if version else ()), here=here)
        assert (event.model, event.model_version) == (model, version)


@pytest.mark.parametrize("path", ["/v2/models/sentiment/infer", "/v2/models/cancer/infer"])
async def test_an_event_names_the_dependency_without_which_the_caller_was_verified(path: str) -> None:
    endpoint = FakeJwks(tokens.RSA)
    here = LimitedCheck(limited(), fetch=endpoint, failure=Failure(jwks=OnFailure.LOCAL, grace=600))
    token = (bearer(exp=here.clock.now() + 80_000),)
    await here.decide(post(path, authorization=token))
    endpoint.down = True
    here.clock.advance(POLICY.issuers[0].jwks_max_stale + 1)
    await here.decide(post(path, authorization=token))
    assert [decode(event).degraded for event, _ in here.settlement.ledger] == ["", "jwks"]


async def test_host_and_source_are_those_of_each_call_though_the_rest_is_prepared_once() -> None:
    here = world(ALL_WELL, module)
    for host, source in (("a.example", "10.0.0.1"), ("b.example:8080", 'x"\\\x7f'), ("b.example", "")):
        event = await event_of(post(host=host, source=source), here=here)
        record = decode_record(bytes(event.record))
        assert record
        assert (record.host, record.source, record.roles[1]) == (host, source, "infer")


async def test_a_refusal_records_as_much_as_was_known() -> None:
    anonymous = await known(post(authorization=(), source="10.0.0.7"))
    assert (anonymous.source, anonymous.operation, anonymous.issued_at) == ("10.0.0.7", "infer", 0)
    somebody = await known(post("/v2/models/cancer/infer"))
    assert "infer" in somebody.roles
    nowhere = await known(post("/nothing"))
    assert (nowhere.host, nowhere.operation) == ("models.example", "")


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
async def test_no_credential_is_in_it(scenario: object) -> None:
    assert isinstance(scenario, type(SCENARIOS[0]))
    here = world(scenario.answer, module)
    decision = await here.decide(replace(scenario.request, headers={"authorization": bearer(), "cookie": "secret"}))
    written = [json.dumps(json.loads(ask.event)) for ask in here.settlement.requests]
    written += [str(event) + str(bytes(event.record)) for event in here.settlement.recorded]
    assert decision.decision_id in written[-1]
    assert not any("eyJ" in text or "secret" in text or "access_token" in text for text in written)


async def test_what_is_too_long_is_left_out_and_named() -> None:
    many = [f"role-{number:03}" for number in range(200)]
    record = await known(post(authorization=(bearer(realm_access={"roles": [*many, "infer"]}),)))
    assert (record.roles, record.left_out) == ((), ("roles",))
    far = await known(post(host="h" * 1000))
    assert len(far.host) == 255


async def test_a_policy_that_explains_nothing_keeps_nothing() -> None:
    settlement, silent = ScriptedSettlement(ALL_WELL), replace(POLICY, explain_keep=0)
    here = world(ALL_WELL, module)
    check = module.Check(silent, here.decide.__self__._authenticator, settlement, here.decide.__self__._ids)  # type: ignore[attr-defined]
    await check.decide(post())
    await check.decide(post(authorization=()))
    events = [decode(settlement.requests[0].event), *settlement.recorded]
    assert [bytes(event.record) for event in events] == [b"", b""]
    assert events[0].subject == tokens.ALICE


def test_an_event_without_record_is_no_broken_one() -> None:
    event = decode(SettleRequests(POLICY).event(CheckContext(decision_id="id"), None))
    assert (event.decision_id, event.record) == ("id", NO_RECORD)


async def test_an_unread_outcome_changes_nothing() -> None:
    event = await event_of(post(), SettleResult(Outcome.REVOKED))
    assert decode_record(bytes(event.record))


@pytest.mark.parametrize("raw", [None, b"", "", b"{", b"5", b'{"roles":5}'])
def test_what_is_no_record_is_none(raw: bytes | str | None) -> None:
    assert decode_record(raw) is None
