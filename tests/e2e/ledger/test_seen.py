"""What operators can look up about tokens: filled with the ledger, and forgotten with its records."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import LiteralString

import pytest
from msgspec import Raw
from msgspec.structs import replace

from ext_authz.db.migrate import migrate, read_migrations
from ext_authz.db.postgres import connect
from ext_authz.ledger.event import DecisionRecord, Event, encode
from ext_authz.ledger.postgres import forget_tokens
from ext_authz.ledger.queries import Sighting, User, issuers_seen, sighting, users_named
from tests.e2e.ledger.world import World, event, moved
from tests.waiting import running, until

ISS = "https://idp.example/realms/ml"


def call(token: str, subject: str = "sub-1", *, username: str = "alice", issuer: str = "kc", **more: str) -> Event:
    known = DecisionRecord(issuer_name=issuer, session=f"session of {subject}")
    return event(issuer=ISS, subject=subject, token_id=token, username=username, record=Raw(encode(known)), **more)  # type: ignore[arg-type]


async def seen(world: World, kind: str, value: str, issuer: str = "kc", iss: str = "") -> Sighting:
    async with await connect(world.database_url) as connection:
        return await sighting(connection, kind, issuer, value, iss=iss)


@pytest.mark.parametrize(
    ("kind", "value", "tokens"),
    [
        ("token", "a", 1),
        ("session", "session of sub-1", 2),
        ("user", "sub-1", 2),
        ("client", "shop", 3),
        ("client", "batch", 0),
        ("issuer", "", 3),
        ("user", "alice", 0),
    ],
)
async def test_each_token_counts_once_for_all_that_can_be_revoked(
    world: World, kind: str, value: str, tokens: int
) -> None:
    await moved(world, call("a"), call("a"), call("b"), call("b"), call("c", "sub-2", username="bob"))
    found = await seen(world, kind, value)
    assert found.lately == tokens
    if tokens:
        assert found.client == "shop"
        assert found.last_at
        assert datetime.now(UTC) - found.last_at < timedelta(minutes=1)
    assert (await seen(world, kind, value, issuer="other")).lately == 0


async def test_the_client_is_that_of_the_token_that_was_seen_last(world: World) -> None:
    await moved(world, call("b", client="batch"))
    await moved(world, call("a", client="shop"))
    assert (await seen(world, "user", "sub-1")).client == "shop"


async def test_a_name_leads_to_everybody_who_goes_by_it(world: World) -> None:
    await moved(world, call("a"), call("b"), call("c", "sub-2", username="ALICE"), call("d", "sub-3", username="bob"))
    async with await connect(world.database_url) as connection:
        users = await users_named(connection, "Alice")
        assert [(user.issuer, user.subject) for user in users] == [("kc", "sub-1"), ("kc", "sub-2")]
        assert isinstance(users[0], User)
        assert await users_named(connection, "") == []
        assert await issuers_seen(connection) == {"kc": ISS}


async def test_the_name_that_an_older_authorizer_wrote_is_found(world: World) -> None:
    await moved(world, replace(call("a"), username="", record=Raw(b'{"issuer_name":"kc","username":"alice"}')))
    async with await connect(world.database_url) as connection:
        assert [user.username for user in await users_named(connection, "alice")] == ["alice"]


async def test_without_records_tokens_are_found_by_the_url_of_their_issuer(world: World) -> None:
    await moved(world, event(issuer=ISS, subject="sub-1", token_id="a"))
    assert (await seen(world, "user", "sub-1")).lately == 0
    assert (await seen(world, "user", "sub-1", iss=ISS)).lately == 1
    await moved(world, call("a"))
    assert (await seen(world, "user", "sub-1")).lately == 1
    assert (await seen(world, "session", "session of sub-1")).lately == 1


async def test_events_without_a_token_are_in_the_ledger_and_not_in_tokens_seen(world: World) -> None:
    unreadable = Raw(b'{"username":"\\u0000"}')
    await moved(
        world,
        event(issuer="", subject="", token_id=""),
        replace(event(issuer=ISS, token_id="a"), record=unreadable),
        event(issuer=ISS, token_id="x" * 10_000),
    )
    assert (await world.moved(), await world.rejected()) == (3, [])
    assert (await seen(world, "issuer", "", iss=ISS)).lately <= 1


@pytest.mark.parametrize(("keep", "left"), [(None, {"a", "b"}), (timedelta(hours=1), {"a"})])
async def test_tokens_are_forgotten_after_a_week_or_with_the_records(
    world: World, keep: timedelta | None, left: set[str]
) -> None:
    await moved(world, call("a"), call("b"), call("c"))
    older: LiteralString = "UPDATE tokens_seen SET last_seen_at = now() - %s WHERE token_id = %s"
    async with await connect(world.database_url) as connection:
        await connection.execute(older, (timedelta(hours=2), "b"))
        await connection.execute(older, (timedelta(days=8), "c"))
        await forget_tokens(connection, keep)
    assert {token for (token,) in await world.sql("SELECT token_id FROM tokens_seen")} == left


async def test_a_worker_forgets_when_it_starts(world: World) -> None:
    await moved(world, call("a"))
    await world.sql("UPDATE tokens_seen SET last_seen_at = now() - interval '8 days' RETURNING 1")

    async def forgotten() -> bool:
        return await world.sql("SELECT FROM tokens_seen") == []

    async with running(world.worker()):
        await until(forgotten)


async def test_a_database_with_a_ledger_knows_the_tokens_of_the_last_day(database_url: str) -> None:
    await migrate(database_url, read_migrations()[:5])
    row: LiteralString = """INSERT INTO usage_events SELECT gen_random_uuid(), now() - %s, %s, 'sub-1', 'shop', %s,
        '', '', '', '', '', 'allowed', '', ''"""
    async with await connect(database_url) as connection:
        for age, token in ((timedelta(hours=1), "a"), (timedelta(hours=2), "a"), (timedelta(days=2), "b")):
            await connection.execute(row, (age, ISS, token))
        await migrate(database_url)
        found = await sighting(connection, "user", "kc", "sub-1", iss=ISS)
    assert (found.lately, found.client) == (1, "shop")
