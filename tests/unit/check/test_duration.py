"""How long an allowed call may last: no longer than its token, and never longer than the policy says."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from ext_authz.check import Check
from ext_authz.decision import Allow, DecisionIds, Request
from ext_authz.identity.authenticator import TokenAuthenticator
from ext_authz.settlement.local import MemorySettlement
from tests import tokens
from tests.fakes import FakeClock
from tests.unit.check.scenarios import POLICY, bearer, grpc, post


async def lasting(request: Request, *, after: float = 0, leeway: int = 30, cap: int = 600, times: int = 1) -> int:
    """Milliseconds that a call is given which comes so long after its token was issued; asked so often."""
    clock = FakeClock()
    clock.advance(after)
    issuer = replace(POLICY.issuers[0], leeway=leeway)
    policy = replace(
        POLICY, issuers=(issuer,), routes=tuple(replace(route, max_duration=cap) for route in POLICY.routes)
    )
    authenticator = TokenAuthenticator(policy.issuers, fetch=_keys, clock=clock, cache_size=100)
    check = Check(policy, authenticator, MemorySettlement(clock), DecisionIds(clock))
    answers = [await check.decide(request) for _ in range(times)]
    (found,) = {answer.lasts for answer in answers if isinstance(answer, Allow)}
    return found


async def _keys(_url: str) -> bytes:
    return tokens.jwks(tokens.RSA)


@pytest.mark.parametrize(
    ("after", "leeway", "cap", "expected"),
    [
        (0, 30, 600, 300_000),
        (0.25, 30, 600, 299_750),
        (298, 30, 600, 2_000),
        (299, 30, 600, 1_000),
        # Only the leeway still lets it in: what is left of that.
        (299.5, 30, 600, 30_500),
        (310, 30, 600, 20_000),
        (329.75, 30, 600, 1_000),
        (299.5, 0, 600, 1_000),
        # The route's own bound.
        (0, 30, 60, 60_000),
        (295, 30, 60, 5_000),
        (0, 30, 1, 1_000),
        (310, 30, 2, 2_000),
    ],
)
async def test_a_call_ends_with_its_token_or_with_its_route(after: float, leeway: int, cap: int, expected: int) -> None:
    assert await lasting(post(), after=after, leeway=leeway, cap=cap) == expected


async def test_a_token_from_the_cache_is_as_old_as_it_is() -> None:
    assert await lasting(post(), after=200, times=3) == 100_000


async def test_over_grpc_too() -> None:
    assert await lasting(grpc(), after=290) == 10_000


async def test_a_public_call_ends_as_well() -> None:
    assert await lasting(post("/v2/health/live", method="GET", authorization=()), cap=60) == 60_000


async def test_a_token_for_a_day_gets_what_the_route_gives() -> None:
    day = bearer(exp=int(FakeClock().now()) + 86_400)
    assert await lasting(post(authorization=(day,)), cap=600) == 600_000
