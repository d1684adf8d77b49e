"""Postgres, the truth: what the table takes, and whom it revokes."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import LiteralString

import psycopg
import pytest

from ext_authz.db import redis_keys
from ext_authz.db.migrate import migrate, read_migrations
from ext_authz.db.postgres import Connection
from ext_authz.errors import ConfigError, Unavailable
from ext_authz.revocation.entry import Entry, Kind, Target
from ext_authz.revocation.store import Filter, Lookup
from tests.e2e.revocation.world import World, entry, world_of
from tests.postgres import running_postgres

LONG_AGO = datetime(2001, 9, 9, 1, 46, 40, 700_000, tzinfo=UTC)
SECOND = 1_000_000_000
"""LONG_AGO in whole seconds."""


async def rows_of(connection: Connection, query: LiteralString) -> list[tuple[object, ...]]:
    return await (await connection.execute(query)).fetchall()


def token(issued_at: int = SECOND) -> Lookup:
    return (("t:demo:jti", "s:demo:sid", "u:demo:sub", "c:demo:azp", "i:demo:"), issued_at)


@pytest.mark.parametrize(("kind", "value"), [(Kind.TOKEN, "jti"), (Kind.SESSION, "sid")])
async def test_a_token_and_a_session_are_revoked_whenever_issued(world: World, kind: Kind, value: str) -> None:
    await world.store.revoke(entry(value, kind))
    assert await world.store.revoked([token(), token(2 * SECOND), (("t:demo:other", "", "", "", ""), 0)]) == [
        kind,
        kind,
        None,
    ]


@pytest.mark.parametrize(("kind", "value"), [(Kind.USER, "sub"), (Kind.CLIENT, "azp"), (Kind.ISSUER, "")])
async def test_not_before_takes_what_was_issued_in_its_second_and_spares_the_next(
    world: World, kind: Kind, value: str
) -> None:
    await world.store.revoke(entry(value, kind, not_before=LONG_AGO))
    assert await world.store.revoked([token(SECOND - 1), token(SECOND), token(SECOND + 1)]) == [kind, kind, None]


async def test_of_several_that_hit_the_first_is_named(world: World) -> None:
    for kind, value in ((Kind.ISSUER, ""), (Kind.CLIENT, "azp"), (Kind.USER, "sub"), (Kind.SESSION, "sid")):
        await world.store.revoke(entry(value, kind))
        assert await world.store.revoked([token()]) == [kind]


async def test_another_issuer_is_another_namespace(world: World) -> None:
    await world.store.revoke(entry("jti"))
    assert await world.store.revoked([(("t:other:jti", "", "", "", ""), SECOND)]) == [None]


async def test_no_lookups_no_answers_and_odd_ids_are_not_revoked(world: World) -> None:
    assert await world.store.revoked([]) == []
    odd = ("t:demo:a\0b", "s:demo:\ud800", "", "c:demo:{}\"',\\", "i:demo:NULL")
    assert await world.store.revoked([(odd, 0), (("", "", "", "", ""), 0)]) == [None, None]


async def test_a_second_revocation_never_weakens_the_first(world: World) -> None:
    await world.store.revoke(entry("sub", Kind.USER, not_before=LONG_AGO + timedelta(days=2), hours=9))
    await world.store.revoke(entry("sub", Kind.USER, not_before=LONG_AGO, hours=1))
    (recorded,) = await world.store.entries()
    assert recorded.not_before == LONG_AGO + timedelta(days=2)
    assert recorded.expires_at > datetime.now(UTC) + timedelta(hours=8)


async def test_several_are_written_with_what_belongs_to_them_or_not_at_all(world: World) -> None:
    await world.sql("CREATE TABLE beside (word text)")

    async def beside(connection: Connection) -> None:
        await connection.execute("INSERT INTO beside VALUES ('written')")

    async def wrong(connection: Connection) -> None:
        await beside(connection)
        raise ConfigError("not so")

    with pytest.raises(ConfigError, match="not so"):
        await world.operations.write(entry("a"), entry("b"), together=wrong)
    assert await world.store.entries() == []
    receipt = await world.operations.write(entry("a"), entry("b"), together=beside)
    assert receipt.everywhere
    assert not receipt.again
    assert {await world.held("t:demo:a"), await world.held("t:demo:b")} == {"1"}
    assert (await world.operations.write(entry("b"))).again
    rows = await world.store.read(lambda asked: rows_of(asked, "SELECT word FROM beside"))
    assert rows == [("written",)]


async def test_after_a_lift_a_revocation_starts_anew(world: World) -> None:
    await world.store.revoke(entry("sub", Kind.USER, not_before=LONG_AGO + timedelta(days=2)))
    assert await world.store.lift(Target(Kind.USER, "demo", "sub"))
    assert await world.store.lift(Target(Kind.USER, "demo", "sub")) is None
    assert await world.store.revoked([token()]) == [None]
    await world.store.revoke(entry("sub", Kind.USER, not_before=LONG_AGO))
    (recorded,) = await world.store.entries(Filter(issuer="demo"))
    assert recorded.not_before == LONG_AGO


async def test_a_revision_is_never_reused_nor_lowered(world: World) -> None:
    changes = await asyncio.gather(*(world.store.revoke(entry("jti")) for _ in range(20)))
    assert len({each.row.held for each in changes}) == 20


async def test_an_entry_that_cannot_be_is_refused(world: World) -> None:
    with pytest.raises(ConfigError, match="value_names_what_is_revoked"):
        await world.store.revoke(entry(""))
    with pytest.raises(ConfigError, match="not a revocation"):
        await world.store.revoke(entry("a\0b"))


async def test_what_an_operator_leaves_out_is_filled_in(world: World) -> None:
    await world.sql("INSERT INTO revocations (kind, issuer, value) VALUES ('user', 'demo', 'sub')")
    (recorded,) = await world.store.entries()
    held: Entry = recorded
    assert held.not_before
    assert abs(held.not_before - datetime.now(UTC)) < timedelta(minutes=1)
    assert timedelta(days=29) < held.expires_at - datetime.now(UTC) <= timedelta(days=30)
    assert held.actor == "postgres"
    assert await world.store.revoked([token()]) == [Kind.USER]


@pytest.mark.parametrize(
    "row",
    [
        "('users', 'demo', 'x')",
        "('user', 'Demo Realm', 'x')",
        "('user', 'demo', '')",
        "('issuer', 'demo', 'x')",
        "('user', 'demo', repeat('x', 513))",
    ],
)
async def test_a_row_that_would_revoke_nothing_is_refused(world: World, row: LiteralString) -> None:
    with pytest.raises(psycopg.errors.CheckViolation):
        await world.sql("INSERT INTO revocations (kind, issuer, value) VALUES " + row)


@pytest.mark.parametrize(
    "times", ["now(), NULL", "NULL, now() - interval '1 s'", "NULL, 'infinity'", "NULL, '-infinity'"]
)
async def test_times_that_make_no_sense_are_refused(world: World, times: LiteralString) -> None:
    statement: LiteralString = "INSERT INTO revocations (kind, issuer, value, not_before, expires_at) VALUES "
    with pytest.raises((psycopg.errors.CheckViolation, psycopg.errors.NotNullViolation)):
        await world.sql(statement + "('token', 'demo', 'x', " + times + ")")


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM revocations",
        "TRUNCATE revocations",
        "UPDATE revocations SET value = 'y'",
        "UPDATE revocations SET kind = 'session'",
    ],
)
async def test_a_row_in_force_cannot_vanish_behind_the_back_of_the_copies(
    world: World, statement: LiteralString
) -> None:
    await world.store.revoke(entry("x"))
    with pytest.raises(psycopg.errors.RaiseException, match="lift"):
        await world.sql(statement)
    assert await world.store.revoked([(("t:demo:x", "", "", "", ""), 0)]) == [Kind.TOKEN]


async def test_processes_that_migrate_at_once_do_it_once(database_url: str) -> None:
    names = await asyncio.gather(*(migrate(database_url) for _ in range(5)))
    assert sorted(map(len, names)) == [0, 0, 0, 0, len(read_migrations())]
    assert await migrate(database_url) == []


async def test_a_frozen_or_killed_postgres_is_unavailable_in_time(redis_url: str) -> None:
    with running_postgres() as server:
        async with world_of(server.url, redis_url) as world:
            world.store._pool._timeout = 0.3
            assert await world.store.revoked([token()]) == [None]
            server.freeze()
            await _refuses_within(world, seconds=1.0)
            server.thaw()
            assert await _answers(world)
            server.kill()
            await _refuses_within(world, seconds=1.0)
            server.start()
            assert await _answers(world)


async def _refuses_within(world: World, seconds: float) -> None:
    started = asyncio.get_running_loop().time()
    with pytest.raises(Unavailable) as failure:
        await world.store.revoked([token()])
    assert failure.value.dependency == "postgres"
    assert asyncio.get_running_loop().time() - started < seconds


async def _answers(world: World) -> bool:
    async with asyncio.timeout(20):
        while True:
            try:
                return await world.store.revoked([token()]) == [None]
            except Unavailable:
                continue


async def test_a_shard_that_comes_later_is_written_too(world: World) -> None:
    """Authorizers with more shards are started beside a console that runs on: it says what is in force in theirs."""
    await world.operations.write(entry("before"))
    await world.redis.set(redis_keys.rebuilding(1), "a mirror fills it")
    await world.redis.set(redis_keys.complete(2), "run id")
    receipts = await asyncio.gather(*(world.operations.write(entry(f"jti-{number}")) for number in range(4)))
    assert all(receipt.everywhere for receipt in receipts)
    for shard in (0, 1, 2):
        for number in range(4):
            assert await world.redis.get(redis_keys.revocation(f"t:demo:jti-{number}", shard))
    assert not await world.redis.get(redis_keys.revocation("t:demo:before", 1))
    assert not await world.redis.exists(redis_keys.revocation("t:demo:jti-0", 3))
