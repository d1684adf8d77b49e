"""Resets and boosts: in force at the next check, written down, ended in time, and never more than was given."""

from __future__ import annotations

import asyncio
import json

from pydantic import SecretStr

from ext_authz.db import redis_keys
from ext_authz.db.postgres import connect
from ext_authz.quotas.boosts import ENDING, NEEDS, boosts, end_due
from ext_authz.quotas.ending import EndingBoosts
from ext_authz.quotas.store import Given
from ext_authz.settlement.cluster import _return
from tests.e2e.quotas.conftest import Quotas, taking
from tests.postgres_roles import role
from tests.unit.settlement.world import gcra, settle
from tests.waiting import until

OVERDUE = "UPDATE quota_boosts SET until = now() - interval '1 second' WHERE ended_at IS NULL"


async def ended(quotas: Quotas, url: str = "") -> int:
    async with await connect(url or quotas.database_url) as connection:
        return await end_due(connection, quotas.store)


async def test_a_reset_counter_counts_anew_and_the_audit_log_says_by_whom(quotas: Quotas) -> None:
    assert await quotas.calls(5) == 3
    result = await quotas.reset()
    assert (result.exit_code, result.output) == (0, "day: counts anew from now on\n")
    assert await quotas.calls(5) == 3
    ((actor, action, about, details),) = quotas.sql("SELECT actor, action, object, details FROM audit_log")
    assert (actor, action, about) == ("root", "quota.reset", "limit:day")
    by = {"user": "demo:alice"}
    assert details == {"by": by, "used": 3, "boost": 0, "reason": "a bug of ours"}


async def test_a_boost_adds_to_what_is_left_and_is_taken_back_once(quotas: Quotas) -> None:
    await quotas.calls(2)
    result = await quotas.boost(5)
    assert result.exit_code == 0, result.output
    assert result.output.startswith("day: 5 more until 20")
    assert await quotas.left() == 6
    assert await quotas.calls(4) == 4
    shown = json.loads((await quotas.run("show", "day", "--of", "user=demo:alice", "--format", "json")).output)[0]
    assert (shown["used"], shown["boost"]) == (6, 5)
    assert await ended(quotas) == 0, "it is not due"
    quotas.sql(OVERDUE)
    assert [await ended(quotas), await ended(quotas)] == [1, 0]
    assert await quotas.calls(1) == 0, "6 of 3 are used"
    assert (await quotas.store.read(quotas.counter)).used == 6
    listed = json.loads((await quotas.run("boosts", "--all", "--format", "json")).output)
    assert [(each["counter"], each["amount"], each["made_by"]) for each in listed] == [("day demo:alice", 5, "root")]
    assert listed[0]["ended_at"]
    ((action, details),) = quotas.sql("SELECT action, details FROM audit_log")
    assert action == "quota.boosted"
    assert (details["amount"], details["reason"]) == (5, "a launch")
    assert details["until"]


async def test_a_boost_that_was_not_used_leaves_what_there_was(quotas: Quotas) -> None:
    await quotas.calls(1)
    await quotas.boost(100)
    quotas.sql(OVERDUE)
    await ended(quotas)
    assert await quotas.left() == 2


async def test_a_window_has_one_boost_and_a_reset_ends_it(quotas: Quotas) -> None:
    await quotas.boost(5)
    again = await quotas.boost(5)
    assert again.exit_code == 1
    assert "has a boost in this window already" in str(again.exception)
    assert await quotas.store.boost(quotas.counter, "x", 5, 2**42, 2**42) is Given.HAS_ONE
    assert await quotas.left() == 8
    await quotas.reset()
    assert await quotas.left() == 3
    assert json.loads((await quotas.run("boosts", "--format", "json")).output) == []
    assert (await quotas.boost(1)).exit_code == 0
    assert await quotas.left() == 4


async def test_an_old_boost_does_not_end_a_later_one(quotas: Quotas) -> None:
    await quotas.boost(5)
    quotas.sql(OVERDUE)
    await quotas.store.reset(quotas.counter)  # somebody was killed before Postgres heard of it
    assert await quotas.store.boost(quotas.counter, "later", 7, 2**42, 2**42) is Given.IN_FORCE
    assert await ended(quotas) == 1
    assert await quotas.left() == 10


async def test_what_redis_lost_is_not_taken_back(quotas: Quotas) -> None:
    await quotas.boost(5)
    await quotas.world.client.flushall()
    await quotas.world.set_complete(complete=True)
    await quotas.calls(1)
    quotas.sql(OVERDUE)
    assert await ended(quotas) == 1
    assert await quotas.left() == 2


async def test_a_boost_does_not_outlast_its_window(quotas: Quotas) -> None:
    await quotas.boost(5, "3650d")
    ((until, ends),) = quotas.sql(
        "SELECT until, (date_trunc('day', now() AT TIME ZONE 'UTC') + interval '1 day') AT TIME ZONE 'UTC' "
        "FROM quota_boosts"
    )
    assert until == ends
    for key in (redis_keys.counter(quotas.counter.key), redis_keys.boost(quotas.counter.key)):
        seconds, _ = await quotas.world.client.time()
        assert abs(seconds + await quotas.world.client.ttl(key) - ends.timestamp()) < 5


async def test_nothing_is_given_too_late(quotas: Quotas) -> None:
    assert await quotas.store.boost(quotas.counter, "x", 5, 2**42, 1) is Given.TOO_LATE
    assert await quotas.left() == 3


async def test_what_is_given_back_does_not_make_a_boost_larger_nor_lose_it(quotas: Quotas) -> None:
    """A check whose other limits are in other shards gives back what it took."""
    await quotas.boost(5)
    answer = await settle(quotas.world, taking(quotas.counter))
    ends = (await quotas.store.read(quotas.counter)).ends
    quotas.world.settlement._queues[0].give_back([_return(taking(quotas.counter), ends, answer.at_ms)])
    assert await quotas.left() == 7


async def test_limits_without_windows_have_no_boosts_and_are_reset(quotas: Quotas) -> None:
    refused = await quotas.run(
        "boost", "burst", "5", "--of", "user=demo:alice", "--expires-in", "1h", "--reason", "a launch"
    )
    assert "cannot have a boost: reset it, or change the policy" in str(refused.exception)
    take = gcra(10, 10, key="burst\x1fdemo:alice")
    await settle(quotas.world, take)
    shown = await quotas.run("show", "burst", "--of", "user=demo:alice")
    assert shown.exit_code == 0, shown.output
    await quotas.run("reset", "burst", "--of", "user=demo:alice", "--reason", "ours")
    assert await quotas.world.client.get(redis_keys.counter(take.key)) is None


WRONG = (
    (("boost", "day", "0", "--expires-in", "1h"), "not in the range"),
    (("boost", "day", "9999999999", "--expires-in", "1h"), "not in the range"),
    (("boost", "day", "5"), "Missing option '--expires-in'"),
    (("boost", "day", "5", "--expires-in", "59s"), "write 1m or more"),
    (("boost", "day", "5", "--expires-in", "1h", "--of", "alice"), "write PART=VALUE"),
    (("reset", "day", "--of", "user=alice"), "names no issuer"),
    (("reset", "day", "--of", "user=demo:alice", "--reason", " "), "say why"),
)


async def test_what_cannot_be_is_one_sentence(quotas: Quotas) -> None:
    for arguments, words in WRONG:
        result = await quotas.run(*arguments, *(() if "--reason" in arguments else ("--reason", "x")))
        assert result.exit_code != 0
        assert words in result.output + str(result.exception)
    assert quotas.sql("SELECT FROM quota_boosts") == quotas.sql("SELECT FROM audit_log") == []


async def test_nothing_is_given_that_is_not_written_down(quotas: Quotas) -> None:
    quotas.sql("DROP TABLE quota_boosts")
    assert (await quotas.boost(5)).exit_code == 1
    assert await quotas.left() == 3


async def test_the_usage_worker_ends_boosts(quotas: Quotas) -> None:
    await quotas.boost(5)
    quotas.sql(OVERDUE)
    stop = asyncio.Event()
    task = asyncio.create_task(EndingBoosts(SecretStr(quotas.database_url), quotas.store._clients).run(stop))

    async def is_ended() -> bool:
        return await quotas.left() == 3

    await until(is_ended)
    stop.set()
    await task


async def test_the_documented_privileges_are_enough(quotas: Quotas) -> None:
    operators, workers = (
        [f"GRANT {', '.join(rights)} ON {table} TO {{role}}" for table, rights in needs.items()]
        for needs in (NEEDS, ENDING)
    )
    with role(quotas.database_url, *operators) as operator, role(quotas.database_url, *workers) as worker:
        quotas.environ["TOLLGATE_DATABASE_URL"] = operator
        assert [(await each).exit_code for each in (quotas.boost(5), quotas.reset(), quotas.boost(5))] == [0, 0, 0]
        quotas.sql(OVERDUE)
        assert await ended(quotas, worker) == 1
        async with await connect(worker) as connection:
            assert len(await boosts(connection, ended=True, limit=10)) == 2
