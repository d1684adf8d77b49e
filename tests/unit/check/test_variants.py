"""Which variant an allowed call carries, and what the ledger keeps of it."""

from __future__ import annotations

from collections import Counter

from ext_authz.decision import Allow
from ext_authz.ledger.event import decode, decode_record
from ext_authz.policy.model import Experiment, Override
from ext_authz.policy.rights import Has, Trait
from tests.unit.check.scenarios import bearer, grpc, post
from tests.unit.check.test_limits import LimitedCheck, limited

TRY = Override("x-experiment", {"try": "canary"}, Has(Trait.ROLE, frozenset({"tester"})))
EXPERIMENTS = {"sentiment": Experiment("e", "sentiment", {"stable": 50, "canary": 50}, "e", TRY)}


def recorded(here: LimitedCheck) -> list[str]:
    every = [decode_record(bytes(decode(ask.event).record)) for ask in here.settlement.requests]
    return [record.variant for record in every if record]


async def test_users_are_divided_and_each_stays_over_both_protocols() -> None:
    here = LimitedCheck(limited(limit=1000), experiments=EXPERIMENTS)
    found = Counter[str]()
    for number in range(60):
        token = (bearer(sub=f"user-{number}"),)
        answers = [await here.decide(make(authorization=token)) for make in (post, grpc, post)]
        variants = {answer.variant for answer in answers if isinstance(answer, Allow)}
        assert len(variants) == 1
        found.update(variants)
    assert set(found) == {"stable", "canary"}
    assert min(found.values()) > 15


async def test_the_ledger_records_the_variant_of_each_call() -> None:
    here = LimitedCheck(limited(), experiments=EXPERIMENTS)
    tester = (bearer(sub="user-7", realm_access={"roles": ["infer", "tester"]}),)
    answers = [
        await here.decide(post(authorization=tester, headers=headers))
        for headers in ({}, {"x-experiment": "try"}, {}, {"x-experiment": "try"})
    ]
    variants = [answer.variant for answer in answers if isinstance(answer, Allow)]
    assert variants == ["stable", "canary", "stable", "canary"]
    assert recorded(here) == variants


async def test_what_is_no_experiment_has_no_variant() -> None:
    here = LimitedCheck(limited(), experiments=EXPERIMENTS)
    doctor = (bearer(realm_access={"roles": ["doctor"]}),)
    answer = await here.decide(post("/v2/models/cancer/infer", authorization=doctor))
    public = await here.decide(post("/v2/health/live", method="GET", authorization=()))
    assert isinstance(answer, Allow)
    assert isinstance(public, Allow)
    assert (answer.variant, public.variant) == ("", "")
    assert recorded(here) == [""]
