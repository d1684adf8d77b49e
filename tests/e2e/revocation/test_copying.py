"""While much is copied: no new row waits, no lifted one comes back, and at no moment does a revoked token pass."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

import pytest

from ext_authz.db import redis_keys
from ext_authz.db.postgres import connect
from ext_authz.observability.metrics import REVOCATION_REBUILDS
from ext_authz.revocation import feed, mirror, rebuild
from ext_authz.revocation.copy import RevocationCopy, Status
from ext_authz.revocation.entry import Kind, Target
from tests.e2e.revocation.world import World
from tests.waiting import running, until

MANY = (
    "INSERT INTO revocations (kind, issuer, value) SELECT 'token', 'demo', 'old-' || n FROM generate_series(1, 400) n"
)
ROW = "INSERT INTO revocations (kind, issuer, value) VALUES ('token', 'demo', %s)"
PROMISED = 1.0
"""Seconds."""


class Gate:
    """Stops a generator after its first item, until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str, *modules: object) -> None:
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()
        for module in modules:
            monkeypatch.setattr(module, name, self._through(getattr(module, name)))

    def _through(self, generator: Callable[..., AsyncGenerator[Any]]) -> Callable[..., AsyncGenerator[Any]]:
        async def stopped(*args: object) -> AsyncGenerator[Any]:
            async with aclosing(generator(*args)) as items:
                async for item in items:
                    yield item
                    self.reached.set()
                    await self.opened.wait()

        return stopped


async def refused(world: World, value: str) -> bool:
    """What a check finds, in one look: Redis where it is complete, else Postgres."""
    complete, held = await world.redis.eval(_CHECK, 1, redis_keys.shard_tag(), f"t:demo:{value}")
    if complete:
        return held is not None and not held.startswith(b"-")
    return (await world.store.revoked([((f"t:demo:{value}", "", "", "", ""), 0)]))[0] is not None


_CHECK = """
local run_id = string.match(redis.call("INFO", "server"), "run_id:(%w+)")
local complete = redis.call("GET", KEYS[1] .. ":complete") == run_id and 1 or 0
return {complete, redis.call("GET", KEYS[1] .. ":r:" .. ARGV[1])}
"""


@pytest.fixture
async def gate(world: World, monkeypatch: pytest.MonkeyPatch) -> Gate:
    """In the way of the rebuild, and then the comparison: the first page is read, the others are not yet."""
    await world.sql(MANY)
    return Gate(monkeypatch, "pages", feed, rebuild)


async def test_in_the_middle_of_a_rebuild_new_rows_are_in_force_and_stay_so(world: World, gate: Gate) -> None:
    async with running(world.mirror()):
        await gate.reached.wait()
        for number in range(20):
            await world.sql(ROW, f"new-{number}")
            assert await refused(world, f"new-{number}")
        gate.opened.set()
        for turn in range(200):
            assert await refused(world, f"new-{turn % 20}")
            assert await refused(world, f"old-{turn + 200}")
        await until(world.complete)
        assert all([await refused(world, f"new-{number}") for number in range(20)])


async def test_in_the_middle_of_a_comparison_new_rows_are_in_force_in_time(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That is a start with a Redis that is complete already: new rows are read before the comparison reads all."""
    await world.sql(MANY)
    async with running(first := world.mirror()):
        await first.synced.wait()
    await world.redis.delete(redis_keys.compared())
    await world.sql(ROW, "while nobody ran")
    gate = Gate(monkeypatch, "pages", feed, rebuild)
    async with running(world.mirror()):
        await gate.reached.wait()
        await until(lambda: refused(world, "while nobody ran"), seconds=PROMISED)
        for number in range(5):
            await world.sql(ROW, f"new-{number}")
            await until(lambda n=number: refused(world, f"new-{n}"), seconds=PROMISED)  # type: ignore[misc]
        await world.sql("UPDATE revocations SET lifted_at = now() WHERE value = 'new-0'")

        async def lifted() -> bool:
            return not await refused(world, "new-0")

        await until(lifted, seconds=PROMISED)
        gate.opened.set()


async def test_a_bulk_load_keeps_no_single_row_waiting_and_arrives_whole(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "MOST", 20)
    gate = Gate(monkeypatch, "chunks_since", feed, mirror)
    async with running(one := world.mirror()):
        await one.synced.wait()
        await world.sql(MANY)
        await gate.reached.wait()
        for number in range(5):
            await world.sql(ROW, f"new-{number}")
            await until(lambda n=number: refused(world, f"new-{n}"), seconds=PROMISED)  # type: ignore[misc]
        assert not await refused(world, "old-399")
        gate.opened.set()
        await until(lambda: refused(world, "old-399"))
        held = await world.redis.mget([redis_keys.revocation(f"t:demo:old-{number}") for number in range(1, 401)])
        assert None not in held


async def test_a_bulk_load_that_a_process_did_not_finish_is_done_by_the_next(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "MOST", 20)
    with monkeypatch.context() as dying:
        gate = Gate(dying, "chunks_since", feed, mirror)
        async with running(first := world.mirror()):
            await first.synced.wait()
            await world.sql(MANY)
            await gate.reached.wait()
            await world.sql(ROW, "new")
            await until(lambda: refused(world, "new"), seconds=PROMISED)
    assert not await refused(world, "old-399")
    before = REVOCATION_REBUILDS._value.get()
    async with running(world.mirror()):
        await until(lambda: refused(world, "old-399"))
    assert REVOCATION_REBUILDS._value.get() == before


async def test_a_bulk_load_that_fails_is_logged_with_its_cause_and_done_again(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(feed, "MOST", 20)
    gate = Gate(monkeypatch, "chunks_since", feed, mirror)

    async def logged() -> bool:
        return "revocations: a bulk load failed, starting over" in caplog.messages

    async with running(one := world.mirror()):
        await one.synced.wait()
        await world.sql(MANY)
        await gate.reached.wait()
        await world.redis.config_set("min-replicas-to-write", 1)
        try:
            gate.opened.set()
            await until(logged)
        finally:
            await world.redis.config_set("min-replicas-to-write", 0)
        await until(lambda: refused(world, "old-399"))
    (cause,) = {record.__dict__["error"] for record in caplog.records if "bulk load" in record.getMessage()}
    assert cause == "too few replicas follow it (NOREPLICAS): bring them back, or lower min-replicas-to-write"


async def test_what_is_lifted_in_the_middle_of_a_rebuild_is_not_brought_back(world: World, gate: Gate) -> None:
    async with running(world.mirror()):
        await gate.reached.wait()  # a page that still says "in force" is on its way
        receipt = await world.operations.lift(Target(Kind.TOKEN, "demo", "old-1"))
        assert receipt
        assert receipt.redis
        gate.opened.set()
        await until(world.complete)
        assert not await refused(world, "old-1")
        assert await refused(world, "old-2")


async def test_a_row_that_moves_to_a_place_already_read_is_not_missed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.sql(
        """INSERT INTO revocations (kind, issuer, value, created_at, expires_at)
           SELECT 'token', 'demo', 'gone-' || n, now() - interval '2 hours', now() - interval '1 hour'
           FROM generate_series(1, 400) n"""
    )
    await world.sql(MANY)
    await world.sql("DELETE FROM revocations WHERE starts_with(value, 'gone-')")
    await world.sql("VACUUM revocations")
    gate = Gate(monkeypatch, "pages", feed, rebuild)
    async with running(world.mirror(blocks=8)):
        await gate.reached.wait()
        assert await block_of(world, "old-200") > 8
        await world.sql("UPDATE revocations SET reason = 'still revoked' WHERE value = 'old-200'")
        assert await block_of(world, "old-200") < 8
        gate.opened.set()
        await until(world.complete)
        assert await refused(world, "old-200")


async def block_of(world: World, value: str) -> int:
    query = "SELECT (ctid::text::point)[0]::int FROM revocations WHERE value = %s"
    async with await connect(world.database_url) as connection:
        ((block,),) = await (await connection.execute(query, (value,))).fetchall()
    return int(block)


async def test_a_table_that_is_rewritten_in_the_middle_is_read_anew(world: World, gate: Gate) -> None:
    async with running(world.mirror()):
        await gate.reached.wait()
        await world.sql("VACUUM FULL revocations")
        gate.opened.set()
        await until(world.complete)
        held = await world.redis.mget([redis_keys.revocation(f"t:demo:old-{number}") for number in range(1, 401)])
        assert None not in held


async def test_a_table_that_is_rewritten_between_two_pages_is_noticed(world: World) -> None:
    await world.sql(MANY)
    async with await connect(world.database_url) as connection, aclosing(feed.pages(connection, 1)) as pages:
        await anext(pages)
        await world.sql("VACUUM FULL revocations")
        with pytest.raises(feed.StartOver):
            await anext(pages)


async def test_a_key_that_went_missing_is_found_by_the_comparison(world: World) -> None:
    await world.sql(MANY)
    async with running(one := world.mirror()):
        await one.synced.wait()
        await until(lambda: compared(world))
        await world.redis.delete(redis_keys.revocation("t:demo:old-7"))
    assert not await refused(world, "old-7")
    async with running(world.mirror(), world.mirror()):
        await world.redis.delete(redis_keys.compared())  # five minutes later
        await until(lambda: refused(world, "old-7"))


async def test_nothing_is_compared_in_the_middle_of_a_rebuild(
    world: World, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuild, "COMPARE_LOOK", 0.01)
    looked = Statuses(world.redis)
    async with running(world.mirror(copy=looked)):
        await gate.reached.wait()
        await looked.more(20)  # a few by the loop that watches Redis, the others by the comparison
        assert not await world.redis.exists(redis_keys.compared())
        gate.opened.set()
        await until(lambda: compared(world))


class Statuses(RevocationCopy):
    """Counts the calls of `status`."""

    calls = 0

    async def status(self) -> Status:
        self.calls += 1
        return await super().status()

    async def more(self, number: int) -> None:
        until_then = self.calls + number

        async def reached() -> bool:
            return self.calls >= until_then

        await until(reached)


async def compared(world: World) -> bool:
    return bool((await world.redis.get(redis_keys.compared()) or b"").isdigit())


async def test_of_several_one_compares(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rebuild, "COMPARE_LOOK", 0.01)
    await world.sql(MANY)
    mirrors = [world.mirror() for _ in range(3)]
    async with running(*mirrors):
        await asyncio.gather(*(each.synced.wait() for each in mirrors))
        await until(lambda: compared(world))
    assert await world.redis.get(redis_keys.compared()) == b"400"
