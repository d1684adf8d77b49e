"""What was decided can be found by its id, wherever it is on its way, and read again by the thousand."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Sequence
from contextlib import aclosing
from datetime import UTC, datetime, timedelta

import pytest
from click.testing import CliRunner
from msgspec import Raw
from msgspec.structs import replace

from ext_authz.clock import SystemClock
from ext_authz.db.postgres import connect
from ext_authz.decision import DecisionIds
from ext_authz.ledger.commands import usage
from ext_authz.ledger.event import DecisionRecord, Event, StoredEvent, encode
from ext_authz.ledger.postgres import forget_records
from ext_authz.ledger.queries import find_in_postgres, find_in_stream, iterate_events
from tests.e2e.ledger.world import World, event, moved
from tests.waiting import running, until

RECORD = DecisionRecord(
    "models.example", "10.0.0.7", roles=("infer",), claims={"tenant": "a"}, limits=("user\x1fkc:alice",)
)
IDS = DecisionIds(SystemClock())
LONG_AGO, FAR_AHEAD = datetime(2020, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)


def an_event(**fields: str) -> Event:
    return replace(event(decision_id=IDS.mint(), policy="hash", **fields), record=Raw(encode(RECORD)))


async def found(world: World, decision_id: str) -> StoredEvent | None:
    async with await connect(world.database_url) as connection:
        return await find_in_postgres(connection, uuid.UUID(decision_id))


async def everything(world: World, since: datetime, until: datetime, batch: int) -> list[list[StoredEvent]]:
    async with (
        await connect(world.database_url) as connection,
        aclosing(iterate_events(connection, since, until, batch=batch)) as batches,
    ):
        return [each async for each in batches]


async def test_found_in_the_stream_until_it_is_moved_and_in_the_ledger_afterwards(world: World) -> None:
    wanted = replace(an_event(), degraded="jwks")
    await world.record(*(an_event() for _ in range(3)), wanted, outcome=1)
    assert await found(world, wanted.decision_id) is None
    waiting = await find_in_stream([world.redis], uuid.UUID(wanted.decision_id))
    assert waiting
    assert (waiting.reason, waiting.client, waiting.degraded, waiting.record) == ("revoked", "shop", "jwks", RECORD)
    assert await find_in_stream([world.redis], uuid.UUID(IDS.mint())) is None

    await moved(world)
    assert await find_in_stream([world.redis], uuid.UUID(wanted.decision_id)) is None
    assert await found(world, wanted.decision_id) == waiting
    assert await found(world, str(uuid.uuid4())) is None


async def test_events_and_rows_of_an_older_version_are_read(world: World) -> None:
    old = b'{"decision_id":"%s","client":"shop"}' % IDS.mint().encode()
    await world.record_raw({"e": old, "o": 0})
    await moved(world)
    decision = await found(world, json.loads(old)["decision_id"])
    assert decision
    assert (decision.client, decision.degraded, decision.record) == ("shop", "", None)


async def test_the_limit_that_refused_is_known(world: World) -> None:
    refused = an_event()
    await world.record_raw({"e": encode(refused), "o": 2, "l": "user\x1fkc:alice"})
    await moved(world)
    decision = await found(world, refused.decision_id)
    assert decision
    assert (decision.reason, decision.record) == ("over_limit", replace(RECORD, limited_by=RECORD.limits[0]))


async def test_a_period_is_streamed_in_batches(world: World) -> None:
    events = [an_event(client=str(number)) for number in range(5)]
    await moved(world, *events)
    batches = await everything(world, LONG_AGO, FAR_AHEAD, 2)
    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert {decision.client for batch in batches for decision in batch} == {"0", "1", "2", "3", "4"}
    assert {decision.record == RECORD for batch in batches for decision in batch} == {True}
    last = max(decision.occurred_at for batch in batches for decision in batch)
    assert sum(map(len, await everything(world, LONG_AGO, last, 9))) < 5, "the end is not part of a period"


async def test_the_export_is_a_line_per_decision(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = an_event()
    await moved(world, wanted, an_event())
    monkeypatch.setenv("TOLLGATE_DATABASE_URL", world.database_url)
    monkeypatch.setenv("TOLLGATE_REDIS_URL", world.redis_url)

    def run(*words: str) -> Sequence[str]:
        result = CliRunner().invoke(usage, ["export", "--format", "jsonl", *words], catch_exceptions=False)
        assert result.exit_code == 0
        return result.output.splitlines()

    lines = [json.loads(line) for line in await asyncio.to_thread(run, "--since", "2020-01-01")]
    (line,) = (line for line in lines if line["decision_id"] == wanted.decision_id)
    assert (len(lines), line["client"], line["facts"]["claims"]) == (2, "shop", {"tenant": "a"})
    assert await asyncio.to_thread(run, "--since", "2020-01-01", "--until", "2020-01-02") == []


async def test_records_are_forgotten_when_their_time_is_over_and_rows_stay(world: World) -> None:
    old, young = an_event(username="alice"), an_event(username="alice")
    await moved(world, old, young)
    await world.make_older(old, hours=3)
    async with await connect(world.database_url) as one, await connect(world.database_url) as other:
        async with one.transaction():
            await one.execute("SELECT since FROM usage_facts FOR UPDATE")
            assert await forget_records(other, timedelta(hours=1)) == 0, "another worker is at it"
        assert await forget_records(other, timedelta(hours=1)) == 1
        assert await forget_records(other, timedelta(hours=1)) == 0
    kept, lost = await found(world, young.decision_id), await found(world, old.decision_id)
    assert kept
    assert lost
    assert (kept.record, lost.record, lost.client) == (RECORD, None, "shop")
    assert (kept.username, lost.username) == ("alice", "")
    await moved(world, old)
    assert await world.rejected() == [], "it is the same event"


async def test_the_worker_forgets_and_keeps_nothing_that_comes_too_late(world: World) -> None:
    event_id = f"{int((datetime.now(UTC) - timedelta(hours=2)).timestamp() * 1000)}-1"
    late, young = an_event(username="alice"), an_event()
    await world.redis.xadd("{tg0}:events", {"e": encode(late), "o": 0}, id=event_id)
    await world.record(young)
    async with running(world.worker(records_keep=3600)):
        await until(world.drained)
    kept, lost = await found(world, young.decision_id), await found(world, late.decision_id)
    assert kept
    assert lost
    assert (kept.record, lost.record, lost.username) == (RECORD, None, "")
