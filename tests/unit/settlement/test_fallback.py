"""Postgres is asked once for all checks that wait, and whatever it does reaches each of them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from ext_authz.revocation.entry import Kind
from ext_authz.settlement.failure_mode import Fallback
from ext_authz.settlement.model import SettleRequest
from tests.unit.settlement.world import PostgresRevocations, ask


async def test_what_comes_while_a_question_runs_goes_together_with_the_next() -> None:
    postgres = PostgresRevocations()
    postgres.revoked = {"t:kc:revoked"}
    fallback = Fallback(postgres)
    first = asyncio.create_task(fallback.revoked_by(ask()))
    await asyncio.sleep(0)
    others = await asyncio.gather(*(fallback.revoked_by(ask(token=token)) for token in ("good", "revoked", "better")))

    assert (await first, others) == (None, [None, Kind.TOKEN, None])
    assert postgres.questions in ([1, 3], [4])


async def test_a_failure_reaches_every_check_that_waits_and_none_after_it() -> None:
    postgres = PostgresRevocations()
    postgres.failure = RuntimeError("a bug")
    fallback = Fallback(postgres)
    failures = await asyncio.gather(*(fallback.revoked_by(ask()) for _ in range(3)), return_exceptions=True)
    assert failures == [postgres.failure] * 3

    postgres.failure = None
    assert await fallback.revoked_by(ask()) is None


async def test_an_answer_of_the_wrong_length_is_no_answer() -> None:
    async def forgetful(asks: Sequence[SettleRequest]) -> Sequence[Kind | None]:
        return [None] * (len(asks) - 1)

    with pytest.raises(ValueError, match="shorter"):
        await Fallback(forgetful).revoked_by(ask())


async def test_a_caller_that_goes_away_spoils_nothing() -> None:
    fallback = Fallback(PostgresRevocations())
    gone, stays = (asyncio.create_task(fallback.revoked_by(ask())) for _ in range(2))
    await asyncio.sleep(0)
    gone.cancel()
    assert await stays is None
    await fallback.stop()
