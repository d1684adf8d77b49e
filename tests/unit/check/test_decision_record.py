"""What the ledger keeps of a decision besides its outcome: enough to explain it, and never a credential."""

from __future__ import annotations

import json

import pytest
from msgspec.structs import replace

from ext_authz import check as module
from ext_authz.decision import Deny, Request
from ext_authz.errors import Unavailable
from ext_authz.ledger.event import NO_RECORD, DecisionRecord, Event, decode, decode_record
from ext_authz.phases.context import CheckContext
from ext_authz.phases.model_reads import ModelsDocument
from ext_authz.phases.quota_reads import QuotaDocument
from ext_authz.phases.settle_request import SettleRequests
from ext_authz.policy.model import Failure, OnFailure
from ext_authz.settlement.model import Outcome, SettleResult
from tests import tokens
from tests.fakes import FakeJwks
from tests.unit.check.scenarios import ALL_WELL, POLICY, SCENARIOS, Scenario, World, bearer, grpc, post, world
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


async def test_who_acted_for_the_caller() -> None:
    """A token from a token exchange (RFC 8693) is the subject's; the record says who used it."""
    token = bearer(act={"sub": "batch", "act": {"sub": "portal"}})
    assert (await known(post(authorization=(token,)))).actor == ("batch", "portal")
    long = bearer(
        act={"sub": "b" * 255, "act": {"sub": "c" * 255, "act": {"sub": "d" * 255, "act": {"sub": "e" * 255}}}}
    )
    record = await known(post(authorization=(long,)))
    assert (record.actor, record.left_out) == ((), ("actor",))


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


@pytest.mark.parametrize("path", ["/v2/models/sentiment/infer", "/v2/models/cancer/infer"])
async def test_behind_a_proxy_the_client_has_an_address_of_its_own(path: str) -> None:
    here = LimitedCheck(limited(), trusted_hops=1)
    for forwarded, address in (
        ("192.0.2.1", "192.0.2.1"),
        ("x, 192.0.2.2", "192.0.2.2"),
        ("none", ""),
        ("10.0.0.1", ""),
    ):
        await here.decide(post(path, source="10.0.0.1", headers={"x-forwarded-for": forwarded}))
        record = decode_record(bytes(decode(here.settlement.ledger[-1][0]).record))
        assert record is not None
        assert (record.source, record.address) == ("10.0.0.1", address)


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


@pytest.mark.parametrize(
    ("request_", "named"),
    [
        (post("/run/sentiment/2", authorization=()), ("sentiment", "2")),
        (grpc(models=("sentiment",), versions=("2",), authorization=()), ("sentiment", "2")),
        (grpc(models=("x" * 129,), authorization=()), ("", "")),
        (grpc(models=("sentiment", "other"), authorization=()), ("", "")),
        (grpc(models=("sentiment",), versions=("0" * 99,), authorization=()), ("", "")),
        (post("/v2/models/a%20b/infer", authorization=()), ("", "")),
    ],
)
async def test_a_refusal_without_a_caller_names_the_model_if_it_is_a_name(
    request_: Request, named: tuple[str, str]
) -> None:
    event = await event_of(request_)
    assert (event.model, event.model_version) == named


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
async def test_no_credential_is_in_it(scenario: Scenario) -> None:
    here = world(scenario.answer, module)
    decision = await here.decide(replace(scenario.request, headers={"authorization": bearer(), "cookie": "secret"}))
    written = [json.dumps(json.loads(ask.event)) for ask in here.settlement.requests if ask.event]
    written += [str(event) + str(bytes(event.record)) for event in here.settlement.recorded]
    assert all(decision.decision_id in text for text in written)
    assert len(written) > 0 or scenario.document in (QuotaDocument, ModelsDocument)
    assert not any("eyJ" in text or "secret" in text or "access_token" in text for text in written)


async def test_what_is_too_long_is_left_out_and_named() -> None:
    many = [f"role-{number:03}" for number in range(200)]
    record = await known(post(authorization=(bearer(realm_access={"roles": [*many, "infer"]}),)))
    assert (record.roles, record.left_out) == ((), ("roles",))
    far = await known(post(host="h" * 1000))
    assert len(far.host) == 255


async def test_a_policy_that_explains_nothing_keeps_nothing() -> None:
    here = world(ALL_WELL, module, replace(POLICY, explain_keep=0))
    await here.decide(post())
    await here.decide(post(authorization=()))
    events = [decode(here.settlement.requests[0].event), *here.settlement.recorded]
    assert [bytes(event.record) for event in events] == [b"", b""]
    assert events[0].subject == tokens.ALICE


def test_an_event_without_record_is_no_broken_one() -> None:
    event = decode(SettleRequests(POLICY).event(CheckContext(decision_id="id"), None))
    assert (event.decision_id, event.record) == ("id", NO_RECORD)


REFUSED: dict[str, dict[str, object]] = {
    "token_expired": {"iat": 1_000_000_000, "exp": 1_000_000_100},
    "audience_mismatch": {"aud": "another-service"},
    "token_type": {"typ": "ID"},
}


@pytest.mark.parametrize("code", REFUSED)
async def test_a_refused_token_with_a_valid_signature_names_its_owner(code: str) -> None:
    here, token = world(ALL_WELL, module), bearer(**REFUSED[code])
    for _ in range(2):  # verified, then remembered
        decision = await here.decide(post(authorization=(token,)))
        event = here.settlement.recorded[-1]
        record = decode_record(bytes(event.record))
        assert record
        assert (event.code, event.subject, event.client) == (code, tokens.ALICE, "web-app")
        assert (event.token_id != "", record.issuer_name, record.session != "") == (True, "kc", True)
        assert isinstance(decision, Deny)
        assert decision.principal.subject == tokens.ALICE
        assert (record.roles, event.username, record.expires_at > 0) == ((), "", True)


async def test_what_is_wrong_in_a_refused_token_is_left_out() -> None:
    wrong = bearer(sub=["x"], sid="\n", azp=5, jti="", iat=True, exp="soon", aud=[1, "other"], preferred_username={})
    record, event = await known(post(authorization=(wrong,))), await event_of(post(authorization=(wrong,)))
    assert (event.code, event.subject, event.client, event.token_id) == ("claim_invalid", "", "", "")
    assert (record.session, record.issued_at, record.expires_at, record.audiences) == ("", 0, 0, ("other",))
    nobody = await event_of(post(authorization=(bearer(sub=tokens.ABSENT, aud="other"),)))
    assert nobody.subject == nobody.client != ""


async def test_a_token_that_nobody_signed_names_nobody() -> None:
    header, claims, _ = bearer(exp=1_000_000_100).split(".")
    event = await event_of(post(authorization=(f"{header}.{claims}.{'A' * 342}",)))
    assert (event.code, event.subject, event.client, event.token_id) == ("signature_invalid", "", "", "")


@pytest.mark.parametrize("claims", [{}, {"aud": "another-service"}])
async def test_the_user_name_is_kept_if_the_policy_says_so(claims: dict[str, object]) -> None:
    for keeps, name in ((False, ""), (True, "alice")):
        here = world(ALL_WELL, module, replace(POLICY, explain_usernames=keeps))
        assert (await event_of(post(authorization=(bearer(**claims),)), here=here)).username == name


async def test_an_unread_outcome_changes_nothing() -> None:
    event = await event_of(post(), SettleResult(Outcome.REVOKED))
    assert decode_record(bytes(event.record))


@pytest.mark.parametrize("raw", [None, b"", "", b"{", b"5", b'{"roles":5}'])
def test_what_is_no_record_is_none(raw: bytes | str | None) -> None:
    assert decode_record(raw) is None
