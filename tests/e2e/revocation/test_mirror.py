"""The copy in Redis: rows written by anyone, at any time, and a Redis that loses what it had."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

from pydantic import SecretStr

from ext_authz.clock import SystemClock
from ext_authz.db import redis_keys
from ext_authz.db.positions import Position
from ext_authz.db.postgres import connect
from ext_authz.observability.metrics import REVOCATION_REBUILDS
from ext_authz.revocation.copy import Applied, RevocationCopy
from ext_authz.revocation.entry import Kind, Target, entry_id
from ext_authz.revocation.feed import chunk_of
from ext_authz.revocation.mirror import Mirror
from ext_authz.revocation.rebuild import AHEAD
from tests.e2e.revocation.world import World, entry
from tests.services import free_port
from tests.waiting import running, until

ROW = "INSERT INTO revocations (kind, issuer, value) VALUES ('token', 'demo', %s)"


NOWHERE = Position("0-0", "1:1:")


async def test_a_receipt_names_both_stores_and_both_hold_it(world: World) -> None:
    receipt = await world.operations.write(entry("jti"))
    assert (receipt.postgres, receipt.redis, receipt.everywhere) == (True, True, True)
    assert await world.held("t:demo:jti") == "1"
    assert await world.store.revoked([(("t:demo:jti", "", "", "", ""), 0)]) == [Kind.TOKEN]


async def test_redis_holds_not_before_in_whole_seconds_rounded_down(world: World) -> None:
    await world.operations.write(entry("sub", Kind.USER, not_before=datetime.fromtimestamp(1_000_000_000.9, UTC)))
    assert await world.held("u:demo:sub") == "1000000000"


async def test_redis_forgets_a_revocation_a_little_after_its_end(world: World) -> None:
    end = datetime.now(UTC) + timedelta(hours=1)
    await world.operations.write(entry("jti", hours=1))
    left = timedelta(milliseconds=await world.redis.pttl(redis_keys.revocation("t:demo:jti")))
    assert timedelta(minutes=4) < datetime.now(UTC) + left - end < timedelta(minutes=6)


async def test_a_row_written_by_hand_is_in_force_on_the_notification(world: World) -> None:
    mirror = world.mirror(poll=60)
    async with running(mirror):
        await mirror.synced.wait()
        await world.sql(ROW, "by-hand")
        await until(lambda: world.held("t:demo:by-hand"), seconds=5)


async def test_a_row_written_by_hand_is_in_force_without_the_notification(world: World) -> None:
    await world.sql("ALTER TABLE revocations DISABLE TRIGGER notify")
    mirror = world.mirror(poll=0.05)
    async with running(mirror):
        await mirror.synced.wait()
        await world.sql(ROW, "by-hand")
        await until(lambda: world.held("t:demo:by-hand"), seconds=5)


async def test_rows_written_while_no_mirror_ran_are_found_at_the_start(world: World) -> None:
    async with running(first := world.mirror()):
        await first.synced.wait()
    await world.sql(ROW, "in-between")
    assert await world.complete()
    async with running(second := world.mirror()):
        await second.synced.wait()
        assert await world.held("t:demo:in-between") == "1"


async def test_a_transaction_that_commits_late_is_not_missed(world: World) -> None:
    await world.sql("ALTER TABLE revocations DISABLE TRIGGER notify")
    async with running(mirror := world.mirror(poll=0.02)), await connect(world.database_url) as slow:
        await mirror.synced.wait()
        async with slow.transaction():
            await slow.execute(ROW, ("late",))
            for number in range(10):  # younger transactions come and go, and are polled one by one
                await world.sql(ROW, f"young-{number}")
                await until(lambda n=number: world.held(f"t:demo:young-{n}"))  # type: ignore[misc]
            assert await world.held("t:demo:late") is None
        await until(lambda: world.held("t:demo:late"), seconds=5)


async def test_a_lift_by_hand_reaches_redis(world: World) -> None:
    async with running(mirror := world.mirror()):
        await mirror.synced.wait()
        await world.operations.write(entry("jti"))
        await world.sql("UPDATE revocations SET lifted_at = now()")

        async def gone() -> bool:
            return await world.held("t:demo:jti") is None

        await until(gone, seconds=5)


async def test_a_lift_is_answered_when_both_stores_let_go(world: World) -> None:
    await world.operations.write(entry("jti"))
    receipt = await world.operations.lift(Target(Kind.TOKEN, "demo", "jti"))
    assert receipt
    assert receipt.everywhere
    assert await world.held("t:demo:jti") is None
    assert await world.store.revoked([(("t:demo:jti", "", "", "", ""), 0)]) == [None]
    assert await world.operations.lift(Target(Kind.TOKEN, "demo", "jti")) is None


async def test_a_slow_writer_cannot_undo_a_newer_row(world: World) -> None:
    first = (await world.store.revoke(entry("jti"))).row
    lifted = await world.store.lift(Target(Kind.TOKEN, "demo", "jti"))
    assert lifted
    again = (await world.store.revoke(entry("jti"))).row
    await world.copy.write(chunk_of([again]))
    await world.copy.write(chunk_of([lifted.row]))
    await world.copy.write(chunk_of([first]))
    assert await world.held("t:demo:jti") == "1"
    last = await world.store.lift(Target(Kind.TOKEN, "demo", "jti"))
    assert last
    for row in (last.row, again, lifted.row, first):
        await world.copy.write(chunk_of([row]))
    assert await world.held("t:demo:jti") is None


async def test_a_flushed_redis_is_rebuilt_and_only_then_believed(world: World) -> None:
    async with running(mirror := world.mirror()):
        await mirror.synced.wait()
        values = [f"jti-{number}" for number in range(1000)]
        await world.sql(
            "INSERT INTO revocations (kind, issuer, value) SELECT 'token', 'demo', unnest(%s::text[])", values
        )
        await until(lambda: world.held("t:demo:jti-999"))
        before = REVOCATION_REBUILDS._value.get()
        await world.redis.flushall()
        assert not await world.complete()
        await until(world.complete)
        held = await world.redis.mget([redis_keys.revocation(entry_id(Kind.TOKEN, "demo", value)) for value in values])
        assert len(held) == 1000
        assert None not in held
        assert REVOCATION_REBUILDS._value.get() == before + 1


class _FlushedInTheMiddle(RevocationCopy):
    """The real copy, and somebody who flushes Redis once the first chunk of the first rebuild is there."""

    def __init__(self, world: World) -> None:
        super().__init__(world.redis)
        self._world = world
        self.chunks: list[bool] = []
        self._flushed = False

    async def fill(self, chunk: str, nonce: str) -> Applied:
        if self.chunks and not self._flushed:
            self._flushed = True
            await self._world.redis.flushall()
        written = await super().fill(chunk, nonce)
        self.chunks.append(written.rows >= 0)
        return written


async def test_a_flush_in_the_middle_of_a_rebuild_leaves_no_marker(world: World) -> None:
    await world.sql("INSERT INTO revocations (kind, issuer, value) SELECT 'token', 'demo', generate_series(1, 1000)")
    copy = _FlushedInTheMiddle(world)
    async with running(mirror := world.mirror(copy=copy)):
        await mirror.synced.wait()
    lost = [number for number, written in enumerate(copy.chunks) if not written]
    assert lost, "given up"
    assert max(lost) <= AHEAD + 1, "at once"
    assert len(copy.chunks) - max(lost) > 10, "and done again from the first row"
    assert await world.complete()
    assert len(await world.redis.keys(redis_keys.revocation("*"))) == 1000


async def test_a_flush_after_the_last_chunk_leaves_no_marker(world: World) -> None:
    row = (await world.store.revoke(entry("jti"))).row
    found = await world.copy.status()
    assert await world.copy.begin("nonce", found, last_nonce="")
    assert (await world.copy.write(chunk_of([row]), nonce="nonce")).rows == 1
    await world.redis.flushall()
    assert not await world.copy.finish("nonce", found, NOWHERE)
    assert not await world.complete()


async def test_of_two_rebuilds_only_the_latest_can_set_the_marker(world: World) -> None:
    found = await world.copy.status()
    assert await world.copy.begin("first", found, last_nonce="")
    assert not await world.copy.begin("second", found, last_nonce="")
    await world.redis.delete(redis_keys.rebuilding())  # its lease has run out
    assert await world.copy.begin("second", found, last_nonce="")
    assert not await world.copy.finish("first", found, NOWHERE)
    assert not await world.complete()
    assert await world.copy.finish("second", found, NOWHERE)
    assert await world.complete()


async def test_two_mirrors_revokers_and_flushes_never_lose_a_revocation(world: World) -> None:
    """What a check sees: a Redis that claims to be complete holds everything that was answered as in force."""
    promised: list[str] = []
    over = asyncio.Event()

    async def look() -> None:
        while not over.is_set():
            asked = list(promised)
            status, *held = await world.redis.eval(_CHECK, 1, redis_keys.shard_tag(), *asked)
            assert status != 1 or None not in held, "a complete Redis lacks a revocation that was promised"

    async def operate(number: int) -> None:
        for count in range(60):
            wanted = entry(f"{number}-{count}")
            assert (await world.operations.write(wanted)).everywhere
            promised.append(wanted.id)
            if count % 20 == 10:
                await world.redis.flushall()

    mirrors = [world.mirror(), world.mirror(), world.mirror()]
    async with running(*mirrors):
        await mirrors[0].synced.wait()
        looking = asyncio.create_task(look())
        await asyncio.gather(operate(1), operate(2), operate(3))
        await until(world.complete)
        over.set()
        await looking
    assert len(promised) == 180


_CHECK = """
redis.replicate_commands()
local marker = redis.call("GET", KEYS[1] .. ":complete")
local run_id = string.match(redis.call("INFO", "server"), "run_id:(%w+)")
local reply = {marker == run_id and 1 or 0}
for i = 1, #ARGV do reply[i + 1] = redis.call("GET", KEYS[1] .. ":r:" .. ARGV[i]) end
return reply
"""


async def test_a_redis_that_may_drop_keys_is_never_believed(world: World) -> None:
    async with running(mirror := world.mirror()):
        await mirror.synced.wait()
        for policy in ("allkeys-lru", "volatile-ttl"):
            await world.redis.config_set("maxmemory-policy", policy)
            try:

                async def doubted() -> bool:
                    return not await world.complete()

                await until(doubted, seconds=5)
                found = await world.copy.status()
                assert await world.copy.begin("by-force", found, last_nonce="")
                assert not await world.copy.finish("by-force", found, NOWHERE)
            finally:
                await world.redis.config_set("maxmemory-policy", "noeviction")
            await until(world.complete, seconds=5)


async def test_old_rows_are_cleaned_up_and_younger_ones_stay(world: World) -> None:
    await world.sql(
        """INSERT INTO revocations (kind, issuer, value, created_at, expires_at) VALUES
           ('token', 'demo', 'old', now() - interval '3 hours', now() - interval '2 hours'),
           ('token', 'demo', 'ended', now() - interval '3 hours', now() - interval '10 minutes'),
           ('token', 'demo', 'in-force', now(), now() + interval '1 hour')"""
    )
    async with running(mirror := world.mirror()), await connect(world.database_url) as connection:
        await mirror.synced.wait()

        async def cleaned_up() -> bool:
            """The comparison of all rows does it, beside what makes the copy complete."""
            rows = await (await connection.execute("SELECT value FROM revocations ORDER BY 1")).fetchall()
            return rows == [("ended",), ("in-force",)]

        await until(cleaned_up)
    assert [await world.held(f"t:demo:{value}") for value in ("old", "ended", "in-force")] == [None, None, "1"]


async def test_a_marker_of_another_process_goes_though_postgres_is_away(world: World) -> None:
    """A fail-over brings it to the replica, and one back would make it good again, with what is here by then."""
    await world.redis.set(redis_keys.complete(), "another-process")
    nowhere = SecretStr(f"postgresql://127.0.0.1:{free_port()}/none")
    async with running(Mirror(nowhere, [world.copy], SystemClock(), poll=0.05)):
        await until(lambda: _without_marker(world))


async def _without_marker(world: World) -> bool:
    return not await world.redis.exists(redis_keys.complete())
