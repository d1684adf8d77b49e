"""What is left of limits: of a person, of a service account, of one token."""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import Callable, Sequence

import psycopg
import pytest

from ext_authz.clock import SystemClock
from ext_authz.policy.model import DEFAULT_PLAN, Policy
from ext_authz.revocation.known import KnownRevocations
from ext_authz.settlement.model import NO_IDS, SEPARATOR, Outcome, QuotaRequest, SettleRequest
from ext_authz.settlement.redis import RedisSettlement
from tests.e2e.console.world import Console, Person, refused

Visit = Callable[..., Person]
Take = Callable[[str, str, int], None]


@pytest.fixture
def take(console: Console, policy: Policy) -> Take:
    """Take so many from the counter of a limit that has this value, as a check does."""

    async def taken(request: SettleRequest) -> Outcome:
        async def none(requests: Sequence[SettleRequest]) -> Sequence[None]:
            return [None] * len(requests)

        clock = SystemClock()
        settlement = RedisSettlement(
            console.redis_url,
            timeout=5,
            ledger_max=1,
            revoked_in_postgres=none,
            known=KnownRevocations(clock, poll=1),
            clock=clock,
        )
        await settlement.start()
        try:
            return (await settlement.settle(request)).outcome
        finally:
            await settlement.stop()

    rules = {rule.name: rule.of(DEFAULT_PLAN) for route in policy.routes for rule in route.limits}

    def take(name: str, value: str, cost: int) -> None:
        limit = rules[name]
        how = (limit.algorithm, limit.limit, limit.window * 1000, limit.burst, cost)
        request = SettleRequest(NO_IDS, 0, (QuotaRequest(SEPARATOR.join((name, value)), *how),), b"")
        assert asyncio.run(taken(request)) is Outcome.OK

    return take


def _left(page: str) -> dict[str, tuple[str, str]]:
    """By limit: what it counts by, and what is left."""
    found = re.findall(
        r'row">([a-z-]+)<small>.*?"Counts by">([^<]*)</td>\s*<td data-label="Left">([^<]*)<', page, re.DOTALL
    )
    return {name: (by, left) for name, by, left in found}


def _subject(console: Console, username: str) -> str:
    with psycopg.connect(console.database_url) as connection:
        found = connection.execute("SELECT subject FROM owners WHERE username = %s", (username,)).fetchone()
    assert found
    return str(found[0])


def test_of_a_token_all_that_counts_its_calls(console: Console, visit: Visit, take: Take) -> None:
    frank = visit("frank")
    first, second = frank.make("counted"), frank.make("counted-too")
    subject = _subject(console, "frank")
    take("token-day", f"demo:{first}", 3)
    take("client-day", f"demo:tollgate:{subject}", 20)
    assert frank.post(f"/tokens/{first}/renew", None, days="7", grace="0").status_code == 303
    of_first, of_second = (_left(frank.get(f"/tokens/{grant}").text) for grant in (first, second))
    assert of_first["token-day"] == ("this token", "47 of 50"), "a renewed token keeps its quota"
    assert of_second["token-day"] == ("this token", "50 of 50")
    assert of_first["client-day"] == of_second["client-day"] == ("all API tokens of its owner", "50 of 70")
    assert of_first["user-minute"][0] == "all calls of its owner"
    assert "address-day" not in of_first, "it was never used: from nowhere"
    assert _left(frank.get("/usage").text).keys() == {"user-minute", "address-day"}
    frank.post("/tokens/revoke-all")
    assert "What is left for it" not in frank.get(f"/tokens/{first}").text


def test_of_a_service_account_and_its_calls(console: Console, visit: Visit, take: Take) -> None:
    erin, name = visit("erin"), f"batch-{uuid.uuid4().hex[:6]}"
    erin.post("/service-accounts", name=name, group="/team-vision", roles="infer")
    take("user-minute", f"demo:service:{name}", 10)
    take("user-minute", f"demo:{_subject(console, 'erin')}", 1)
    with psycopg.connect(console.database_url) as connection:
        connection.execute("UPDATE owners SET username = subject WHERE subject = %s", (f"service:{name}",))
    refused(console, f"service:{name}", model="cancer", reason="allowed", code="")
    page = erin.get(f"/service-accounts/{name}/usage?days=7").text
    assert f"Usage of {name}" in page
    assert "1 call" in page
    assert ">cancer</th>" in page
    by, left = _left(page)["user-minute"]
    assert by == "all its calls"
    assert left.endswith(" of 10")
    assert int(left.split()[0]) < 9, "the counter of somebody else"
    assert erin.get("/service-accounts/nobodys/usage").status_code == 404
