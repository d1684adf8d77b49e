"""One table of cases over every place that decides whether a token is revoked: they must agree."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import NamedTuple

import pytest
from pydantic import SecretStr

from ext_authz.clock import SystemClock
from ext_authz.revocation.entry import Kind, TokenIds, entry_id, revoked_by, revoked_until
from ext_authz.revocation.feed import chunk_of, named
from ext_authz.revocation.keeper import Keeper
from ext_authz.revocation.known import KnownRevocations
from ext_authz.settlement.model import Outcome, SettleRequest
from tests.e2e.revocation.world import World
from tests.e2e.settlement.redis_world import RedisWorld
from tests.waiting import until

ISSUED_AT = 1_795_179_000
STATES = ("nothing", "lifted", "before", "same second", "after")
"""Of a revocation: whether there is one, and its time beside the time at which the token was issued."""
SECONDS = {"before": ISSUED_AT - 0.001, "same second": ISSUED_AT + 0.999, "after": ISSUED_AT + 1.0, "lifted": ISSUED_AT}
FOR_EVER = ("nothing", "lifted", "after")
"""A token or a session is revoked whenever it was issued."""


class Case(NamedTuple):
    number: int
    states: tuple[str, ...]
    """In the order of `Kind`; "" where the token has no such claim."""

    @property
    def ids(self) -> TokenIds:
        token, session, user, client, issuer = (
            state and entry_id(kind, f"issuer-{self.number}", "" if kind is Kind.ISSUER else "x")
            for kind, state in zip(Kind, self.states, strict=True)
        )
        return token, session, user, client, issuer

    @property
    def expected(self) -> Kind | None:
        """Written out, not computed from a number."""
        hits = ("after", "same second")
        return next((kind for kind, state in zip(Kind, self.states, strict=True) if state in hits), None)

    def rows(self) -> list[tuple[str, str, str, datetime | None, bool]]:
        """What to write into Postgres; the last: lift it again."""
        return [
            (
                kind.label,
                f"issuer-{self.number}",
                "" if kind is Kind.ISSUER else "x",
                None if kind in (Kind.TOKEN, Kind.SESSION) else datetime.fromtimestamp(SECONDS[state], UTC),
                state == "lifted",
            )
            for kind, state in zip(Kind, self.states, strict=True)
            if state not in ("", "nothing")
        ]


CASES = [
    Case(number, states)
    for number, states in enumerate(product(FOR_EVER, ("", *FOR_EVER), STATES, ("", *STATES), STATES))
]


@pytest.fixture
async def cases(world: World) -> Sequence[Case]:
    """All cases are in Postgres."""
    rows = [row for case in CASES for row in case.rows()]
    await world.sql(
        """INSERT INTO revocations (kind, issuer, value, not_before)
           SELECT kind, issuer, value, not_before FROM unnest(%s::text[], %s::text[], %s::text[], %s::timestamptz[])
           AS row (kind, issuer, value, not_before)""",
        *(list(column) for column in list(zip(*rows, strict=True))[:4]),
    )
    lifted = [f"{kind[0]}:{issuer}:{value}" for kind, issuer, value, _, lift in rows if lift]
    await world.sql("UPDATE revocations SET lifted_at = now() WHERE id = ANY(%s)", lifted)
    return CASES


def wrong(answers: Sequence[Kind | None]) -> list[tuple[Case, Kind | None]]:
    return [(case, by) for case, by in zip(CASES, answers, strict=True) if by is not case.expected]


async def test_postgres_redis_and_the_workers_own_list_agree(
    world: World, cases: Sequence[Case], redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    assert {case.expected for case in cases} == {None, *Kind}
    assert wrong(await world.store.revoked([(case.ids, ISSUED_AT) for case in cases])) == []

    rows = await world.store.read(lambda asked: named(asked, [each for case in cases for each in case.ids if each]))
    held = {row.id: row.held for row in rows}
    assert wrong([revoked_by(case.ids, ISSUED_AT, lambda each: revoked_until(held.get(each))) for case in cases]) == []

    for first in range(0, len(rows), 1000):
        await world.copy.write(chunk_of(rows[first : first + 1000]))
    async with RedisWorld(redis_url, ledger_max=10_000) as redis:
        results = await asyncio.gather(
            *(redis.settlement.settle(SettleRequest(case.ids, ISSUED_AT, (), b"")) for case in cases)
        )
    assert wrong([result.revoked_by for result in results]) == []
    assert {result.outcome for result in results} == {Outcome.OK, Outcome.REVOKED}

    assert wrong(await _known(world, cases)) == []


async def _known(world: World, cases: Sequence[Case]) -> list[Kind | None]:
    worker, stop = KnownRevocations(SystemClock(), poll=0.05), asyncio.Event()
    worker.want()
    keeper = asyncio.create_task(Keeper(SecretStr(world.database_url), SystemClock(), poll=0.05).run(stop))

    async def whole() -> bool:
        return worker.whole_at() > 0

    try:
        await until(whole)
        return [worker.revokes(case.ids, ISSUED_AT) for case in cases]
    finally:
        worker.stop()
        stop.set()
        await keeper
