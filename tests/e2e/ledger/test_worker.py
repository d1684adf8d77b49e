"""Each event once in the ledger, whatever comes twice, broken or late; workers are killed in the middle of batches."""

from __future__ import annotations

import time
from typing import Any
from uuid import UUID

import msgspec
import pytest

from ext_authz.db.postgres import connect
from ext_authz.db.redis_keys import LEDGER_GROUP
from ext_authz.ledger.event import Event, encode
from ext_authz.ledger.metrics import LEDGER_LAG, LEDGER_MOVED, LEDGER_PENDING
from ext_authz.ledger.worker import GATHER
from tests.e2e.ledger.world import STREAM, World, event, process
from tests.waiting import running, until


async def test_events_become_rows_and_leave_the_stream(world: World) -> None:
    allowed, limited = event(), event()
    await world.record(allowed)
    await world.record(limited, outcome=2)
    async with running(world.worker()):
        await until(world.drained)
    rows = await world.sql("SELECT decision_id, reason, code, client, occurred_at <= received_at FROM usage_events")
    assert sorted(rows, key=str) == sorted(
        [
            (UUID(allowed.decision_id), "allowed", "", "shop", True),
            (UUID(limited.decision_id), "over_limit", "over_limit", "shop", True),
        ],
        key=str,
    )


async def test_events_that_come_one_by_one_are_moved_together(world: World) -> None:
    """Each for itself costs processors that the calls need. `received_at` is the time of a transaction."""
    async with running(world.worker(batch=1000)):
        began = time.monotonic()
        for _ in range(300):
            await world.record(event())
        await until(world.drained)
        most = 2 + (time.monotonic() - began) / GATHER
    [(transactions, moved)] = await world.sql("SELECT count(DISTINCT received_at), count(*) FROM usage_events")
    assert moved == 300
    assert transactions <= most


@pytest.mark.parametrize("same_batch", [True, False], ids=["in one batch", "one after the other"])
async def test_the_same_event_twice_is_one_row(world: World, *, same_batch: bool) -> None:
    twice = event()
    before = LEDGER_MOVED.labels("duplicate")._value.get()
    async with running(world.worker(batch=10)):
        if same_batch:
            await world.record(twice, twice)
        else:
            await world.record(twice)
            await until(world.drained)
            await world.record(twice)
        await until(world.drained)
    assert (await world.moved(), await world.rejected()) == (1, [])
    assert LEDGER_MOVED.labels("duplicate")._value.get() == before + 1


@pytest.mark.parametrize("same_batch", [True, False], ids=["in one batch", "one after the other"])
async def test_another_event_under_a_known_id_is_kept_and_never_written_over(world: World, *, same_batch: bool) -> None:
    first = event()
    other = msgspec.structs.replace(first, client="another")
    async with running(world.worker(batch=10)):
        if same_batch:
            await world.record(first, other)
        else:
            await world.record(first)
            await until(world.drained)
            await world.record(other)
        await until(world.drained)
    assert await world.sql("SELECT client FROM usage_events") == [("shop",)]
    ((stream, raw, reason),) = await world.sql("SELECT stream, raw, reason FROM usage_rejects")
    assert (stream, msgspec.msgpack.decode(raw)) == (STREAM, {b"e": encode(other), b"o": b"0"})
    assert reason == f"the ledger holds another event under {first.decision_id}"


def answered_503(settled: Event) -> Event:
    """What check.py records about a decision when Redis' answer was lost."""
    return msgspec.structs.replace(settled, reason="unavailable", code="redis_unavailable")


@pytest.mark.parametrize("outcome", [0, 1, 2], ids=["allowed", "revoked", "over the limit"])
@pytest.mark.parametrize("same_batch", [True, False], ids=["in one batch", "one after the other"])
@pytest.mark.parametrize("settled_first", [True, False], ids=["settled first", "unavailable first"])
async def test_what_was_answered_with_503_is_billed_as_that(
    world: World, *, settled_first: bool, same_batch: bool, outcome: int
) -> None:
    settled = event()
    events = [(settled, outcome), (answered_503(settled), 0)]
    for one, found in events if settled_first else reversed(events):
        await world.record(one, outcome=found)
        if not same_batch:
            async with running(world.worker()):  # each time another one: nothing is remembered
                await until(world.drained)
    async with running(world.worker()):
        await until(world.drained)
    rows = await world.sql("SELECT decision_id, reason, code, client FROM usage_events")
    assert rows == [(UUID(settled.decision_id), "unavailable", "redis_unavailable", "shop")]
    assert await world.rejected() == []


async def test_what_was_answered_with_503_counts_where_that_was_written(world: World) -> None:
    settled = event()
    await world.record(answered_503(settled))
    entries: Any = await world.redis.xrange(STREAM)
    for _ in range(2):
        await world.record(settled)
    async with running(world.worker(batch=1)):
        await until(world.drained)
    ((counted_at,),) = await world.sql("SELECT extract(epoch FROM occurred_at) * 1000 FROM usage_events")
    assert int(counted_at) == int(entries[0][0].partition(b"-")[0])


async def test_a_503_about_another_call_supersedes_nothing(world: World) -> None:
    settled = event()
    await world.record(settled, msgspec.structs.replace(answered_503(settled), client="another"))
    async with running(world.worker()):
        await until(world.drained)
    assert await world.sql("SELECT client, reason FROM usage_events") == [("shop", "allowed")]
    assert await world.rejected() == [f"the ledger holds another event under {settled.decision_id}"]


async def test_a_worker_killed_between_commit_and_acknowledgement_bills_no_503(world: World) -> None:
    settled = [event() for _ in range(50)]
    await world.record(*settled, *map(answered_503, settled), *settled)
    await world.redis.execute_command("ACL", "SETUSER", "default", "-xdel")  # type: ignore[no-untyped-call]
    try:
        with process(world, batch=150) as worker:

            async def committed() -> bool:
                return await world.moved() == 50

            await until(committed)
            worker.kill()
    finally:
        await world.redis.execute_command("ACL", "SETUSER", "default", "+@all")  # type: ignore[no-untyped-call]
    assert await world.redis.xlen(STREAM) == 150
    async with running(world.worker(batch=7)):
        await until(world.drained)
    assert await world.sql("SELECT reason, count(*) FROM usage_events GROUP BY 1") == [("unavailable", 50)]
    assert await world.rejected() == []


async def test_two_workers_that_meet_over_the_same_decisions_agree(world: World) -> None:
    """As with shards: the two events of a decision come over two streams, in any order, at the same time."""
    settled = [event() for _ in range(2000)]
    mixed = [*settled, *map(answered_503, reversed(settled))]
    await world.record(*mixed)
    async with running(world.worker("a", batch=50), world.worker("b", batch=70), world.worker("c", batch=90)):
        await until(world.drained)
    assert await world.sql("SELECT reason, count(*) FROM usage_events GROUP BY 1") == [("unavailable", 2000)]
    assert await world.rejected() == []


async def test_broken_events_are_kept_and_do_not_hold_up_the_others(world: World) -> None:
    good = [event() for _ in range(20)]
    await world.record(*good[:10])
    await world.record_raw({"e": b"no json", "o": 0}, {"x": b"\xff\x00"}, {"e": encode(event()), "o": 9})
    await world.record(event(path="/\0"), event(client="".join(map(chr, range(1, 9000)))))
    await world.record(*good[10:])
    async with running(world.worker()):
        await until(world.drained)
    assert {str(row[0]) for row in await world.sql("SELECT decision_id FROM usage_events")} == {
        one.decision_id for one in good
    }
    reasons = await world.rejected()
    assert [reason.partition(":")[0] for reason in reasons] == [
        "not a usage event",
        "no field e, or unknown outcome",
        "no field e, or unknown outcome",
        "postgres refused it",
        "postgres refused it",
    ]


async def test_a_flushed_redis_gets_its_group_back(world: World) -> None:
    async with running(world.worker()):
        await world.record(event())
        await until(world.drained)
        await world.redis.flushall()
        await world.record(event())

        async def both() -> bool:
            return await world.moved() == 2

        await until(both)


async def test_what_a_dead_worker_left_is_adopted(world: World) -> None:
    await world.redis.xgroup_create(STREAM, LEDGER_GROUP, id="0", mkstream=True)
    await world.record(*(event() for _ in range(30)))
    await world.redis.xreadgroup(LEDGER_GROUP, "dead", {STREAM: ">"}, count=20)
    async with running(world.worker(adopt=0.05)):
        await until(world.drained)
    assert await world.moved() == 30


async def test_what_somebody_deleted_under_our_hands_does_not_come_back_for_ever(world: World) -> None:
    await world.redis.xgroup_create(STREAM, LEDGER_GROUP, id="0", mkstream=True)
    await world.record(event(), event())
    await world.redis.xreadgroup(LEDGER_GROUP, "worker", {STREAM: ">"})
    entries: Any = await world.redis.xrange(STREAM)
    entry_id = entries[0][0]
    await world.redis.xdel(STREAM, entry_id)
    async with running(world.worker()):
        await until(world.drained)
    assert (await world.moved(), await world.rejected()) == (1, [])


async def test_depth_and_lag_are_shown(world: World) -> None:
    await world.record(*(event() for _ in range(5)))
    await world.redis.xgroup_create(STREAM, LEDGER_GROUP, id="0", mkstream=True)
    worker = world.worker()
    worker._url = "postgresql://127.0.0.1:1/none"  # Postgres is away: the stream is the buffer
    async with running(worker):

        async def shown() -> bool:
            return bool(LEDGER_PENDING._value.get() == 5 and LEDGER_LAG._value.get() > 1.0)

        await until(shown)
    assert await world.redis.xlen(STREAM) == 5


async def test_several_workers_share_the_work_and_double_nothing(world: World) -> None:
    await world.record(*(event() for _ in range(5000)))
    async with running(world.worker("a", batch=50), world.worker("b", batch=50), world.worker("b", batch=50)):
        await until(world.drained)
    assert (await world.moved(), await world.rejected()) == (5000, [])


async def test_a_worker_killed_before_its_commit_loses_nothing(world: World) -> None:
    await world.record(*(event() for _ in range(100)))
    async with await connect(world.database_url) as operator, operator.transaction():
        await operator.execute("LOCK TABLE usage_events")
        with process(world) as worker:

            async def waits_for_the_lock() -> bool:
                return bool(await world.sql("SELECT 1 FROM pg_locks WHERE NOT granted"))

            await until(waits_for_the_lock)
            worker.kill()
    assert await world.redis.xlen(STREAM) == 100
    async with running(world.worker()):
        await until(world.drained)
    assert (await world.moved(), await world.rejected()) == (100, [])


async def test_a_worker_killed_after_its_commit_doubles_nothing(world: World) -> None:
    await world.record(*(event() for _ in range(100)))
    await world.redis.execute_command("ACL", "SETUSER", "default", "-xdel")  # type: ignore[no-untyped-call]
    try:
        with process(world) as worker:

            async def committed() -> bool:
                return await world.moved() == 100

            await until(committed)
            worker.kill()
    finally:
        await world.redis.execute_command("ACL", "SETUSER", "default", "+@all")  # type: ignore[no-untyped-call]
    assert await world.redis.xlen(STREAM) == 100
    async with running(world.worker()):
        await until(world.drained)
    assert (await world.moved(), await world.rejected()) == (100, [])


async def test_workers_killed_in_the_middle_of_batches_lose_and_double_nothing(world: World) -> None:
    events = [event() for _ in range(20_000)]
    await world.record(*events)
    for name in ("a", "b", "a"):
        before = await world.moved()
        with process(world, name, batch=100) as worker:

            async def under_way(before: int = before) -> bool:
                return await world.moved() >= before + 1000

            await until(under_way)
            worker.kill()
    left = await world.redis.xlen(STREAM)
    assert 0 < left < 20_000
    async with running(world.worker("c", batch=1000, adopt=0.2)):
        await until(world.drained)
    assert (await world.moved(), await world.rejected()) == (20_000, [])
    stored = {str(row[0]) for row in await world.sql("SELECT decision_id FROM usage_events")}
    assert stored == {one.decision_id for one in events}


async def test_a_stop_finishes_the_batch(world: World) -> None:
    await world.record(*(event() for _ in range(20_000)))
    with process(world, batch=1000) as worker:

        async def under_way() -> bool:
            return await world.moved() > 0

        await until(under_way)
        assert worker.stop() == 0
    (group,) = await world.redis.xinfo_groups(STREAM)
    assert group["pending"] == 0
    assert await world.moved() + await world.redis.xlen(STREAM) == 20_000
