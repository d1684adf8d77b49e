"""Junk from one address is refused before it costs anything, and affects no other caller."""

from __future__ import annotations

import asyncio
import logging
import time

import pytest
from msgspec.structs import replace

from ext_authz.decision import Allow, Deny, Reason, Request
from ext_authz.edge.authorizer import Authorizer
from ext_authz.edge.response import Responder
from ext_authz.policy.model import Failure, Flood, OnFailure, Responses
from tests import tokens
from tests.fakes import FakeClock, FakeJwks
from tests.requests import check_request
from tests.unit.check.scenarios import POLICY, bearer, grpc, post
from tests.unit.check.test_limits import LimitedCheck, limited
from tests.unit.edge.answers import refusal

BAD = "203.0.113.66"
FLOOD = Flood(rate=2, window=1, burst=5)

JUNK = {
    "no route": post("/nothing", source=BAD),
    "another method": post(method="PUT", source=BAD),
    "a path that is not canonical": post("/v2//models", source=BAD),
    "another protocol": grpc(content_type="application/json", source=BAD),
    "no token": post(authorization=(), source=BAD),
    "two tokens": post(authorization=("Bearer a", "Bearer b"), source=BAD),
    "nonsense for a token": post(authorization=("Bearer x.y.z",), source=BAD),
    "an expired token": post(authorization=(bearer(exp=1),), source=BAD),
    "a token in the query": post(query="access_token=x", source=BAD),
}


@pytest.mark.parametrize("junk", JUNK)
async def test_junk_is_refused_as_what_it_is_until_it_is_a_flood(junk: str) -> None:
    here = LimitedCheck(limited(), flood=FLOOD)
    decisions = [await here.decide(JUNK[junk]) for _ in range(8)]
    codes = [decision.code for decision in decisions if isinstance(decision, Deny)]

    assert "flood" not in codes[:5]
    assert codes[5:] == ["flood"] * 3
    assert isinstance(decisions[7], Deny)
    assert (decisions[7].reason, decisions[7].retry_after) == (Reason.OVER_LIMIT, 1)
    assert len(here.settlement.ledger) == 5, "a flood is not carried on to the ledger"
    here.clock.advance(1)
    assert [(await here.decide(JUNK[junk])).code != "flood" for _ in range(3)] == [True, True, False]  # type: ignore[union-attr]


async def test_no_signature_is_checked_in_a_flood() -> None:
    here = LimitedCheck(limited(), flood=FLOOD)
    for _ in range(5):
        await here.decide(JUNK["no token"])
    assert (await here.decide(post(source=BAD))).code == "flood"  # type: ignore[union-attr]
    assert isinstance(await here.decide(post(source="203.0.113.7")), Allow)


async def test_who_is_known_passes_from_the_address_of_a_flood() -> None:
    here = LimitedCheck(limited(limit=1000), flood=FLOOD)
    known = post(source=BAD, authorization=(bearer(),))
    assert isinstance(await here.decide(known), Allow)
    for _ in range(50):
        await here.decide(JUNK["nonsense for a token"])
        assert isinstance(await here.decide(known), Allow)


async def test_a_caller_who_is_known_never_counts() -> None:
    here = LimitedCheck(limited(limit=1000), flood=FLOOD)
    known = post(source=BAD, authorization=(bearer(),))
    assert [type(await here.decide(known)) for _ in range(50)] == [Allow] * 50
    assert (await here.decide(JUNK["no token"])).code == "credential_missing"  # type: ignore[union-attr]


def each_another(times: int) -> list[Request]:
    """Good requests, each with a token that nobody has seen."""
    return [post(source=BAD, authorization=(bearer(jti=f"{number}"),)) for number in range(times)]


async def test_new_good_callers_are_no_flood() -> None:
    """All behind one address, such as after a restart: none is counted before it is known to be bad."""
    here = LimitedCheck(limited(limit=1000), flood=FLOOD)
    assert [type(await here.decide(request)) for request in each_another(50)] == [Allow] * 50
    assert (await here.decide(JUNK["no token"])).code == "credential_missing"  # type: ignore[union-attr]


async def test_good_callers_are_no_flood_while_keys_are_fetched() -> None:
    endpoint = FakeJwks(tokens.RSA)
    endpoint.answering.clear()
    here = LimitedCheck(limited(limit=1000), flood=FLOOD, fetch=endpoint)
    waiting = [asyncio.create_task(here.decide(request)) for request in each_another(50)]
    await endpoint.arrived.wait()
    endpoint.answering.set()
    assert [type(await decision) for decision in waiting] == [Allow] * 50


async def test_callers_with_a_stale_key_are_no_flood() -> None:
    """`jwks: local`: the issuer is away, its keys are too old, and the route bears that for a while."""
    endpoint, without_keys = FakeJwks(tokens.RSA), Failure(jwks=OnFailure.LOCAL, grace=600)
    here = LimitedCheck(limited(limit=1000), flood=FLOOD, fetch=endpoint, failure=without_keys)
    known = post(source=BAD, authorization=(bearer(exp=here.clock.now() + 80_000),))
    await here.decide(known)
    endpoint.down = True
    here.clock.advance(POLICY.issuers[0].jwks_max_stale + 1)
    decisions = [await here.decide(known) for _ in range(50)]
    assert {(type(decision), decision.degraded) for decision in decisions} == {(Allow, "jwks")}


async def test_an_outage_is_no_flood() -> None:
    """Nobody can say whether these are good, so they are not held against their address."""
    endpoint = FakeJwks(tokens.RSA)
    endpoint.down = True
    here = LimitedCheck(limited(limit=1000), flood=FLOOD, fetch=endpoint)
    assert {(await here.decide(request)).code for request in each_another(50)} == {"jwks_unavailable"}  # type: ignore[union-attr]
    endpoint.down = False
    here.clock.advance(POLICY.issuers[0].jwks_cooldown)
    assert isinstance(await here.decide(post(source=BAD)), Allow)


@pytest.mark.parametrize("junk", ["no route", "another method", "another protocol", "a token in the query"])
async def test_what_a_known_caller_gets_wrong_is_no_flood(junk: str) -> None:
    here = LimitedCheck(limited(limit=1000), flood=FLOOD)
    known = post(source=BAD)
    await here.decide(known)
    wrong = replace(JUNK[junk], authorization=known.authorization)
    assert "flood" not in {(await here.decide(wrong)).code for _ in range(50)}  # type: ignore[union-attr]
    assert (await here.decide(JUNK["no token"])).code == "credential_missing"  # type: ignore[union-attr]


def unknown_key(number: int) -> str:
    return f"Bearer {tokens.mint(headers={'kid': f'made-up-{number}'}, now=FakeClock().now())}"


async def test_junk_that_waited_for_keys_is_counted() -> None:
    endpoint = FakeJwks(tokens.RSA)
    here = LimitedCheck(limited(), flood=FLOOD, fetch=endpoint)
    await here.decide(post())
    endpoint.answering.clear()
    endpoint.arrived.clear()
    made_up = [post(source=BAD, authorization=(unknown_key(n),)) for n in range(20)]
    waiting = [asyncio.create_task(here.decide(request)) for request in made_up]
    await endpoint.arrived.wait()
    endpoint.answering.set()
    assert {(await decision).code for decision in waiting} == {"key_unknown"}  # type: ignore[union-attr]
    assert (await here.decide(post(source=BAD, authorization=(bearer(jti="new"),)))).code == "flood"  # type: ignore[union-attr]


async def test_public_routes_are_no_flood() -> None:
    here = LimitedCheck(limited(), flood=FLOOD)
    live = post("/v2/health/live", method="GET", authorization=(), source=BAD)
    assert [type(await here.decide(live)) for _ in range(20)] == [Allow] * 20


async def test_the_address_is_the_one_behind_our_proxies() -> None:
    here = LimitedCheck(limited(), flood=FLOOD, trusted_hops=1)
    for number in range(20):
        headers = {"x-forwarded-for": f"10.9.9.{number}, {BAD}"}
        decision = await here.decide(post(authorization=(), source="10.0.0.1", headers=headers))
    assert decision.code == "flood"  # type: ignore[union-attr]
    other = await here.decide(post(authorization=(), source="10.0.0.1", headers={"x-forwarded-for": "203.0.113.7"}))
    assert other.code == "credential_missing"  # type: ignore[union-attr]


async def test_a_policy_without_flood_limits_no_address() -> None:
    here = LimitedCheck(limited())
    codes = {(await here.decide(JUNK["no token"])).code for _ in range(200)}  # type: ignore[union-attr]
    assert codes == {"credential_missing"}


async def test_a_flood_is_logged_once_where_a_refusal_is_logged_each_time(caplog: pytest.LogCaptureFixture) -> None:
    here = LimitedCheck(limited(), flood=FLOOD)
    authorizer = Authorizer(here.check, Responder("tollgate", Responses(), "hash"))
    with caplog.at_level(logging.INFO):
        answers = [await authorizer.check(check_request(token="x.y.z", source=BAD)) for _ in range(8)]
    logged = [record.message for record in caplog.records if record.name.startswith("ext_authz")]
    assert logged == ["refused"] * 5 + ["flood: refusing an address"] * 2
    assert [refusal(answer).status.code for answer in answers] == [401] * 5 + [429] * 3


async def test_a_flood_is_cheaper_than_what_it_stands_for() -> None:
    """Both on this machine, at the same time: junk tokens, each new, refused by reading them and by the guard."""
    junk = [post(authorization=(f"Bearer x.{number}.z",), source=BAD) for number in range(600)]
    unguarded, guarded = LimitedCheck(limited()), LimitedCheck(limited(), flood=FLOOD)
    guarded.settlement.ledger.clear()
    costs = []
    for here in (unguarded, guarded):
        started = time.process_time()
        for request in junk:
            await here.decide(request)
        costs.append(time.process_time() - started)
    assert costs[1] < costs[0]
