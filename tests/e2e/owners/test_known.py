"""A worker's copy of the table `owners`, over a real Postgres: whoever writes, however late they commit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from ext_authz.clock import SystemClock
from ext_authz.db.migrate import migrate
from ext_authz.db.postgres import Connection, Pool, connect
from ext_authz.decision import Principal
from ext_authz.errors import Unavailable
from ext_authz.identity.identity import Identity
from ext_authz.owners import store
from ext_authz.owners.known import PAGE, KnownOwners
from tests.fakes import FakeClock
from tests.postgres import running_postgres
from tests.waiting import until

NOW = datetime.now(UTC)


def alice(*roles: str, at: float = 100, **fields: object) -> Identity:
    return Identity(
        principal=Principal("https://kc.example", "alice", "web", roles, "token-1"),
        issuer_name="demo",
        session="s1",
        issued_at=int(at),
        expires_at=at + 300,
        audiences=(),
        scopes=frozenset({"models"}),
        roles=frozenset(roles),
        groups=frozenset({"/staff"}),
        claims={"plan": "gold", "seats": 3, "teams": ("a", "b"), "trial": False},
        username="alice@example",
        **fields,  # type: ignore[arg-type]
    )


async def polled(connection: Connection, subject: str, *roles: str, at: datetime = NOW, event: bool = True) -> bool:
    return await store.polled(connection, "demo", subject, roles=roles, groups=(), enabled=True, at=at, event=event)


@asynccontextmanager
async def world(url: str, *, most: int = 1000) -> AsyncIterator[tuple[KnownOwners, Connection]]:
    """A copy that polls every 50 ms, and somebody who writes."""
    await migrate(url)
    pool = Pool(url, timeout=5)
    await pool.open()
    known = KnownOwners(pool.run, SystemClock(), poll=0.05, most=most)
    async with await connect(url) as writer:
        try:
            yield known, writer
        finally:
            await known.stop()
            await pool.close()


async def test_what_a_sign_in_says(database_url: str) -> None:
    async with world(database_url) as (known, writer):
        assert await store.signed_in(writer, alice("infer", "bad\0name"))
        await known.start()
        found = known.find("demo", "alice")
        assert found is not None
        assert (found.roles, found.groups, found.scopes) == tuple(map(frozenset, ({"infer"}, {"/staff"}, {"models"})))
        assert found.claims == {"plan": "gold", "seats": 3, "teams": ("a", "b"), "trial": False}
        assert (found.username, found.signed_in_at, found.service, found.enabled) == ("alice@example", 100, False, True)
        assert (found.current_roles, found.checked_at, found.ends) == (None, 0, {})
        assert known.find("other", "alice") is None
        assert known.cause() == ""


async def test_an_earlier_sign_in_and_an_older_answer_change_nothing(database_url: str) -> None:
    async with world(database_url) as (known, writer):
        assert await store.signed_in(writer, alice("infer", at=100))
        assert not await store.signed_in(writer, alice("admin", at=99))
        assert await polled(writer, "alice", "infer")
        assert not await polled(writer, "alice", "admin", at=NOW - timedelta(seconds=1))
        later = NOW + timedelta(seconds=1)
        assert not await polled(writer, "alice", "infer", at=later, event=False)
        assert await polled(writer, "alice", "infer", at=later)
        set_back = NOW - timedelta(hours=1)
        assert await polled(writer, "alice", "viewer", at=set_back)
        await known.start()
        found = known.find("demo", "alice")
        assert found is not None
        assert (found.current_roles, found.checked_at) == (frozenset({"viewer"}), later.timestamp())


async def test_a_person_and_a_service_account_never_become_each_other(database_url: str) -> None:
    async with world(database_url) as (known, writer):
        assert await store.service(writer, "demo", "service:ci", "/staff", roles=["infer"], scopes=["models"])
        assert await store.signed_in(writer, alice("infer"))
        assert not await store.service(writer, "demo", "alice", "/staff", roles=["admin"])
        assert await polled(writer, "service:ci", "viewer")
        await known.start()
        found = known.find("demo", "service:ci")
        assert found is not None
        assert (found.service, found.roles, found.groups) == (True, frozenset({"infer"}), frozenset({"/staff"}))
        assert found.current_roles == frozenset({"viewer"})


async def test_changes_arrive_and_are_told(database_url: str) -> None:
    async with world(database_url) as (known, writer):
        told: list[str] = []
        known.listen(lambda changed: told.extend(changed))
        await known.start()
        await polled(writer, "alice", "infer")
        await until(lambda: "demo:alice" in told)
        await polled(writer, "alice", at=NOW + timedelta(seconds=1))
        await until(lambda: told.count("demo:alice") == 2)
        found = known.find("demo", "alice")
        assert found is not None
        assert found.current_roles == frozenset()


async def test_a_transaction_that_commits_late_is_not_missed(database_url: str) -> None:
    async with world(database_url) as (known, writer), await connect(database_url) as slow:
        await known.start()
        async with slow.transaction():
            await polled(slow, "late", "infer")
            await polled(writer, "early", "infer")
            await until(lambda: known.find("demo", "early") is not None)
            assert known.find("demo", "late") is None
        await until(lambda: known.find("demo", "late") is not None)


async def test_who_came_just_now_is_sought(database_url: str) -> None:
    async with world(database_url) as (known, writer):
        await known.start()
        await polled(writer, "alice", "infer")
        assert await known.seek("demo", "alice") is not None
        assert await known.seek("demo", "nobody") is None


async def test_a_table_of_many_pages_and_a_bulk_change(database_url: str) -> None:
    fill = "INSERT INTO owners (issuer, subject) SELECT 'demo', 'user-' || n FROM generate_series(1, %s) n"
    async with world(database_url, most=10 * PAGE) as (known, writer):
        await writer.execute(fill, [2 * PAGE + 1])
        told: list[str] = []
        known.listen(lambda changed: told.extend(changed))
        await known.start()
        assert len(told) == 2 * PAGE + 1
        told.clear()
        await writer.execute("UPDATE owners SET enabled = false")
        await until(lambda: len(told) == 2 * PAGE + 1)
        found = known.find("demo", "user-7")
        assert found is not None
        assert not found.enabled


async def test_more_owners_than_are_held(database_url: str) -> None:
    """Those that are not held may have lost every role: nobody knows."""
    async with world(database_url, most=1) as (known, writer):
        await polled(writer, "alice")
        await polled(writer, "bob")
        await known.start()
        assert known.find("demo", "alice") is not None
        with pytest.raises(Unavailable, match="more than 1 owners"):
            known.find("demo", "bob")
        assert "more than 1 owners" in known.cause()


async def test_a_replaced_token_ends_for_its_owner(database_url: str) -> None:
    """Written by a trigger, whoever ends the token."""
    grant = uuid4()
    async with world(database_url) as (known, writer):
        await store.signed_in(writer, alice("infer"))
        await known.start()
        await writer.execute(
            "INSERT INTO grants (id, issuer, subject, name, lifetime, created_by) VALUES (%s, 'demo', 'alice', 'ci',"
            " '1 day', 'alice')",
            [grant],
        )
        token = (
            "INSERT INTO tokens (jti, grant_id, kid, issued_at, expires_at, issued_by)"
            " VALUES (%s, %s, 'k', now(), %s, 'a')"
        )
        await writer.execute(token, ["old", grant, NOW + timedelta(days=1)])
        await writer.execute(token, ["expired", grant, NOW - timedelta(days=1)])
        await writer.execute("UPDATE tokens SET ends_at = %s", [NOW + timedelta(hours=1)])
        await until(lambda: bool((found := known.find("demo", "alice")) and found.ends))
        found = known.find("demo", "alice")
        assert found is not None
        assert found.ends == {"old": int((NOW + timedelta(hours=1)).timestamp())}


async def test_without_postgres_what_is_known_stays_in_use() -> None:
    with running_postgres() as postgres:
        await migrate(postgres.url)
        pool, clock = Pool(postgres.url, timeout=1), FakeClock()
        await pool.open()
        async with await connect(postgres.url) as writer:
            await polled(writer, "alice", "infer")
        known = KnownOwners(pool.run, clock, poll=0.05)
        with pytest.raises(Unavailable, match="not read yet"):
            known.find("demo", "alice")
        try:
            await known.start()
            postgres.kill()
            clock.advance(100)
            await until(lambda: known.cause() != "")
            assert known.find("demo", "alice") is not None
            assert known.find("demo", "bob") is None
            postgres.start()
            async with await connect(postgres.url) as writer:
                await polled(writer, "bob", "infer")
            await until(lambda: known.find("demo", "bob") is not None)
            assert known.cause() == ""
        finally:
            await known.stop()
            await pool.close()


async def test_without_a_table_it_says_what_to_do(database_url: str) -> None:
    pool = Pool(database_url, timeout=1)
    await pool.open()
    known = KnownOwners(pool.run, SystemClock(), poll=0.05)
    try:
        await known.start()
        assert "no table owners" in known.cause()
        with pytest.raises(Unavailable, match="no table owners"):
            known.find("demo", "alice")
        await migrate(database_url)
        async with asyncio.timeout(10):
            await until(lambda: known.loaded)
    finally:
        await known.stop()
        await pool.close()
