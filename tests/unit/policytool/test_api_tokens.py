"""API tokens in the tools of the policy: given in words, decided again, and read from standard input."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import jwt
import pytest
from msgspec.structs import replace

from ext_authz.decision import Allow, Decision, Deny, Request
from ext_authz.errors import ConfigError
from ext_authz.identity.api_tokens import wrap
from ext_authz.identity.identity import Identity
from ext_authz.ledger.event import Event, EventFields, StoredEvent, decode, decode_record
from ext_authz.policy.model import Policy
from ext_authz.policytool.callers import IdentityDocument, given_claims, unverified_claims, written_claims
from ext_authz.policytool.explain_recorded import _record
from ext_authz.policytool.recorded import NotRecorded, RecordedCallers, recorded_request
from ext_authz.policytool.simulator import Simulator, TravelClock
from ext_authz.revocation.target import Named, read_token
from tests.own_tokens import GRANT, own_claims, own_tokens
from tests.tokens import ALICE, without_absent
from tests.unit.check.test_api_tokens import NOW, POLICY, infer, owner, token
from tests.unit.policy.writing import loaded


@pytest.fixture
def policy(tmp_path: Path) -> Policy:
    return loaded(tmp_path, POLICY)


class Given:
    """One caller, whoever asks."""

    def __init__(self, identity: Identity) -> None:
        self.identity = identity

    def cached(self, _authorization: str, _grace: float) -> Identity:
        return self.identity

    async def authenticate(self, *_: object) -> Identity:
        return self.identity


async def decided(policy: Policy, caller: Identity, request: Request) -> tuple[Decision, StoredEvent]:
    simulator = Simulator(policy, NOW, Given(caller))
    decision = await simulator.decide(request)
    event: Event = decode(simulator.counters.ledger[-1][0])
    fields = {name: getattr(event, name) for name in EventFields.__struct_fields__}
    fields["reason"] = decision.reason if isinstance(decision, Deny) else "allowed"
    record = decode_record(bytes(event.record))
    return decision, StoredEvent(**fields, occurred_at=datetime.fromtimestamp(NOW, UTC), record=record)


async def again(event: StoredEvent, policy: Policy, old: Policy | None = None) -> Decision:
    callers = RecordedCallers(policy, old or policy, TravelClock(NOW))
    callers.event = event
    return await Simulator(policy, NOW, callers).decide(recorded_request(event))


WHOLE = owner("infer", "contractor")
CALLERS = [
    token(WHOLE, "infer", models=("sentiment",)),
    token(WHOLE, "infer", models=()),
    token(WHOLE, "infer"),
    WHOLE,
]


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("model", ["sentiment", "team-a", "closed"])
async def test_what_was_recorded_is_decided_alike(policy: Policy, caller: Identity, model: str) -> None:
    plain = replace(policy, experiments={}, tokens=own_tokens())
    decision, event = await decided(plain, caller, infer(model))
    repeated = await again(event, plain)
    assert type(repeated) is type(decision)
    if isinstance(decision, Deny) and isinstance(repeated, Deny):
        assert (repeated.code, repeated.detail) == (decision.code, decision.detail)


async def test_what_would_be_another_token_today_is_said(policy: Policy) -> None:
    before = replace(policy, experiments={}, tokens=own_tokens())
    _, event = await decided(before, CALLERS[0], infer("sentiment"))
    shorter = own_tokens("https://other.example/tollgate")
    for now in (None, shorter):
        with pytest.raises(NotRecorded, match="which API tokens are accepted"):
            await again(event, replace(before, tokens=now), before)


async def test_a_list_that_was_too_long_is_said(policy: Policy) -> None:
    plain = replace(policy, experiments={}, tokens=own_tokens())
    models = ("sentiment", *(f"model-{number}" for number in range(200)))
    _, event = await decided(plain, token(WHOLE, "infer", models=models), infer("sentiment"))
    with pytest.raises(NotRecorded, match="too long"):
        await again(event, plain)


async def test_what_is_shown_of_it(policy: Policy) -> None:
    _, event = await decided(policy, CALLERS[0], infer("sentiment"))
    assert event.record is not None
    lines = list(_record(event.record))
    assert "grant     grant-1, for the models sentiment only" in lines
    assert "owner     roles contractor, infer: the token has less" in lines
    assert "grant     grant-1" in _record(replace(event.record, models=None, owner={}))


async def test_a_caller_in_words(policy: Policy) -> None:
    simulator = Simulator(policy, NOW)
    identity = IdentityDocument(roles=("infer",), models=("team-*",))
    given = simulator.callers.present(given_claims(identity, policy.issuers, NOW))
    for model, allowed in (("team-a", True), ("sentiment", False)):
        decision = await simulator.decide(replace(infer(model), authorization=(given,)))
        assert isinstance(decision, Allow) is allowed
    written = written_claims('{"roles": ["infer"], "models": []}', policy.issuers, NOW)
    refused = await simulator.decide(replace(infer("team-a"), authorization=(simulator.callers.present(written),)))
    assert isinstance(refused, Deny)
    assert "limited to other models" in refused.detail


def text() -> str:
    claims = without_absent(own_claims(now=NOW))
    return wrap(jwt.encode(claims, "x" * 32, algorithm="HS256"))


def test_an_api_token_on_standard_input_says_too_little_to_explain() -> None:
    with pytest.raises(ConfigError, match="not what its owner may do") as wrong:
        unverified_claims(text())
    assert text() not in str(wrong.value)


def test_and_enough_to_revoke_it_in_the_name_of_its_owner() -> None:
    assert read_token(f"Bearer {text()}\n") == Named(
        what="the API token", issuer="ml", token="own-1", session=GRANT, user=ALICE, client="tollgate:nightly"
    )


@pytest.mark.parametrize("broken", [lambda good: good[:-1], lambda good: good.replace("~", "."), lambda _: "tgl_"])
def test_one_that_is_cut_is_not_repeated(broken: object) -> None:
    assert callable(broken)
    with pytest.raises(ConfigError) as refused:
        read_token(broken(text()))
    assert str(refused.value) == "--jwt: standard input holds no whole API token"
