"""The product does what `decision_order.py` says, in every combination; and what that promises holds."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from functools import cache
from itertools import product

import pytest

from tests.spec.decision_order import PHASES, Case, Outcome, expected, values
from tests.spec.product import Product

EARLY = ("route", "credential", "flood", "identity", "permission", "revoked", "quota", "redis")
LATE = ("identity", "revoked", "quota", "redis", "postgres", "if_redis", "if_postgres", "if_keys")


def cases() -> Iterator[Case]:
    """Whatever the phases find, failing closed; and whatever the settlement finds, under every failure mode."""
    for fields in (EARLY, LATE):
        for chosen in product(*map(values, fields)):
            yield Case(**dict(zip(fields, chosen, strict=True)))  # type: ignore[arg-type]


@cache
def outcomes() -> dict[Case, Outcome]:
    """What the product makes of all of them."""

    async def run() -> dict[Case, Outcome]:
        authorizer, log = Product(), logging.getLogger("ext_authz.edge.authorizer")
        log.disabled = True  # a traceback for each bug
        try:
            return {case: await authorizer.run(case) for case in cases()}
        finally:
            log.disabled = False

    return asyncio.run(run())


def test_the_product_does_what_the_specification_says() -> None:
    different = {case: (seen, expected(case)) for case, seen in outcomes().items() if seen != expected(case)}
    assert len(outcomes()) > 20_000
    assert not different, f"{len(different)} differ, the first: {next(iter(different.items()))}"


def test_only_a_call_that_passes_all_phases_is_allowed() -> None:
    for case, outcome in outcomes().items():
        if outcome.verdict == "allow" and case.route != "public":
            assert (case.route, case.credential, case.permission, case.revoked) == ("served", "header", "granted", "no")
            assert case.identity != "refused"
            assert "broken" not in (case.identity, case.redis)


def test_the_first_phase_that_fails_names_the_code() -> None:
    for case, outcome in outcomes().items():
        first = next(found for phase in PHASES if (found := phase(case)) is not None)
        assert outcome.code == first.code


def test_an_outage_is_no_refusal_and_a_refusal_is_no_outage() -> None:
    for outcome in outcomes().values():
        assert (outcome.verdict == "unavailable") == outcome.code.endswith("_unavailable")


def test_only_who_passes_takes_quota() -> None:
    assert all(outcome.quota == "none" for outcome in outcomes().values() if outcome.verdict != "allow")


def test_every_decision_is_written_down_once_but_for_floods() -> None:
    assert all(outcome.ledger == (outcome.code != "flood") for outcome in outcomes().values())


@pytest.mark.parametrize(
    ("field", "before", "after"),
    [
        ("revoked", "no", "yes"),
        ("quota", "left", "used up"),
        ("permission", "granted", "role"),
        ("permission", "granted", "model"),
        ("permission", "granted", "condition"),
        ("flood", "under", "over"),
        ("redis", "up", "ledger full"),
        ("redis", "away", "away too long"),
        ("postgres", "up", "away"),
        ("postgres", "away", "away too long"),
        ("if_redis", "local", "deny"),
        ("if_redis", "allow", "local"),
        ("if_postgres", "local", "deny"),
        ("if_keys", "local", "deny"),
    ],
)
def test_removing_a_right_never_allows_a_call(field: str, before: str, after: str) -> None:
    seen = outcomes()
    compared = 0
    for case, outcome in seen.items():
        if getattr(case, field) == before and (less := case._replace(**{field: after})) in seen:  # type: ignore[arg-type]
            compared += 1
            assert outcome.verdict == "allow" or seen[less].verdict != "allow", less
    assert compared > 1000
