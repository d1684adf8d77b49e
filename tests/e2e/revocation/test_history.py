"""Every change to a revocation is kept, however it was made."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, LiteralString

import psycopg
import pytest
from msgspec.structs import replace

from ext_authz.db.migrate import migrate, read_migrations
from ext_authz.db.postgres import connect
from ext_authz.revocation.entry import Entry, Kind, Target
from tests.e2e.revocation.world import World, entry

BY_HAND: LiteralString = """
INSERT INTO revocations (kind, issuer, value) VALUES ('user', 'demo', 'sub')
ON CONFLICT (id) DO UPDATE SET not_before = excluded.not_before, lifted_at = NULL,
    expires_at = greatest(revocations.expires_at, excluded.expires_at)
"""
"""As the comment on the table recommends."""


def by(actor: str, reason: str = "", *, not_before: datetime | None = None, hours: float = 1) -> Entry:
    return replace(entry("sub", Kind.USER, not_before=not_before, hours=hours), actor=actor, reason=reason)


async def history(world: World) -> list[tuple[str, str, str]]:
    """What, who and why, oldest first."""
    rows = await select(world, "SELECT change, actor, reason FROM revocation_history ORDER BY position")
    return [(change, actor, reason) for change, actor, reason in rows]


async def select(world: World, query: LiteralString) -> list[tuple[Any, ...]]:
    async with await connect(world.database_url) as connection:
        return await (await connection.execute(query)).fetchall()


async def test_revoking_again_keeps_who_when_and_why_of_the_first(world: World) -> None:
    await world.store.revoke(by("alice", "left the company"))
    (first,) = await world.store.entries()
    await world.store.revoke(by("bob", "laptop stolen", hours=2))
    (second,) = await world.store.entries()

    assert (second.actor, second.reason) == ("alice", "left the company")
    assert second.created_at == first.created_at
    assert second.not_before
    assert first.not_before
    assert second.not_before > first.not_before
    assert await history(world) == [("revoked", "alice", "left the company"), ("revoked again", "bob", "laptop stolen")]


async def test_after_a_lift_the_next_life_has_its_own_actor_and_reason(world: World) -> None:
    await world.store.revoke(by("alice", "left the company"))
    await world.store.lift(Target(Kind.USER, "demo", "sub"), actor="bob", reason="came back")
    await world.store.revoke(by("carol"))
    (held,) = await world.store.entries()
    assert (held.actor, held.reason) == ("carol", "")
    assert await history(world) == [
        ("revoked", "alice", "left the company"),
        ("lifted", "bob", "came back"),
        ("revoked", "carol", ""),
    ]


async def test_what_is_written_by_hand_is_remembered_under_who_was_logged_in(world: World) -> None:
    await world.sql(BY_HAND)
    await world.store.revoke(by("alice", "stolen"))
    await world.sql(BY_HAND)
    await world.sql("UPDATE revocations SET lifted_at = now() WHERE value = 'sub'")
    await world.sql(BY_HAND)
    await world.sql("UPDATE revocations SET reason = 'a reason of its own', actor = 'dave'")
    assert await history(world) == [
        ("revoked", "postgres", ""),
        ("revoked again", "alice", "stolen"),
        ("revoked again", "postgres", ""),
        ("lifted", "postgres", ""),
        ("revoked", "postgres", ""),
        ("revoked again", "dave", "a reason of its own"),
    ]
    assert set(await select(world, "SELECT role FROM revocation_history")) == {("postgres",)}


async def test_in_sql_too_actor_and_reason_can_be_given(world: World) -> None:
    said = "SELECT set_config('tollgate.actor', 'erin', true), set_config('tollgate.reason', 'why', true)"
    async with await connect(world.database_url) as connection, connection.transaction():
        await connection.execute(said)
        await connection.execute(BY_HAND)
        await connection.execute("UPDATE revocations SET lifted_at = now(), lifted_by = 'somebody else'")
    assert await history(world) == [("revoked", "erin", "why"), ("lifted", "erin", "why")]
    assert await select(world, "SELECT actor, reason, lifted_by FROM revocations") == [("erin", "why", "erin")]


async def test_a_later_not_before_stays_however_it_is_revoked_again(world: World) -> None:
    later = datetime.now(UTC) + timedelta(minutes=5)
    await world.store.revoke(by("alice", not_before=later))
    await world.store.revoke(by("bob", not_before=later - timedelta(days=1)))
    await world.sql(BY_HAND)
    await world.sql("UPDATE revocations SET not_before = '2001-01-01Z'")
    (held,) = await world.store.entries()
    assert held.not_before == later


async def test_what_has_run_out_is_not_believed_to_be_revoked_again(world: World) -> None:
    ended: LiteralString = """INSERT INTO revocations (kind, issuer, value, created_at, expires_at)
        VALUES ('token', 'demo', 'jti', now() - interval '2 days', now() - interval '1 day')"""
    await world.sql(ended)
    with pytest.raises(psycopg.errors.CheckViolation, match="this revocation ran out at"):
        await world.sql(ended + " ON CONFLICT (id) DO UPDATE SET lifted_at = NULL")
    await world.store.revoke(replace(entry("jti"), actor="alice"))
    assert await history(world) == [("revoked", "postgres", ""), ("revoked", "alice", "")]
    (held,) = await world.store.entries()
    assert held.created_at
    assert (held.actor, held.created_at > datetime.now(UTC) - timedelta(minutes=1)) == ("alice", True)


async def test_what_is_cleaned_away_leaves_its_history(world: World) -> None:
    await world.sql(
        """INSERT INTO revocations (kind, issuer, value, created_at, expires_at)
        SELECT 'token', 'demo', 'jti' || n, now() - interval '2 days', now() - interval '1 day'
        FROM generate_series(1, 3) AS n"""
    )
    await world.sql("DELETE FROM revocations")
    assert await history(world) == [("revoked", "postgres", "")] * 3 + [("expired", "postgres", "")] * 3


@pytest.mark.parametrize(
    "statement",
    ["DELETE FROM revocation_history", "UPDATE revocation_history SET actor = 'x'", "TRUNCATE revocation_history"],
)
async def test_history_is_only_added_to(world: World, statement: LiteralString) -> None:
    await world.store.revoke(entry("jti"))
    with pytest.raises(psycopg.errors.RaiseException, match="only added to"):
        await world.sql(statement)
    assert len(await history(world)) == 1


async def test_a_role_that_may_write_revocations_can_neither_forge_nor_divert_history(world: World) -> None:
    await world.sql("CREATE ROLE clerk LOGIN")
    try:
        await world.sql("GRANT SELECT, INSERT, UPDATE ON revocations TO clerk")
        async with await connect(world.database_url) as connection:
            await connection.execute("SET SESSION AUTHORIZATION clerk")
            await connection.execute("CREATE TEMPORARY TABLE revocation_history (LIKE public.revocations)")
            await connection.execute("SELECT set_config('tollgate.actor', 'the boss', false)")
            await connection.execute(BY_HAND)
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                await connection.execute("INSERT INTO public.revocation_history DEFAULT VALUES")
        assert await select(world, "SELECT actor, role FROM revocation_history") == [("the boss", "clerk")]
    finally:
        await world.sql("DROP OWNED BY clerk")
        await world.sql("DROP ROLE clerk")


@pytest.mark.parametrize("value", ["a\nb", "\x1b[2J", "\x7f", "a\tb", "x" * 256])
async def test_a_value_that_no_token_can_carry_is_refused_by_the_table(world: World, value: str) -> None:
    with pytest.raises(psycopg.errors.CheckViolation, match="no token can carry this value"):
        await world.sql("INSERT INTO revocations (kind, issuer, value) VALUES ('user', 'demo', %s)", value)


async def test_a_database_with_revocations_gets_their_history(database_url: str) -> None:
    await migrate(database_url, read_migrations()[:4])
    async with await connect(database_url) as connection:
        await connection.execute(
            """INSERT INTO revocations (kind, issuer, value, actor, reason, lifted_at, lifted_by, created_at) VALUES
            ('user', 'demo', 'alice', 'ops', 'left', NULL, NULL, '2026-01-01Z'),
            ('token', 'demo', E'a\\nb', 'ops', '', NULL, NULL, '2026-01-02Z'),
            ('session', 'demo', 'sid', 'ops', '', '2026-01-04Z', 'bob', '2026-01-03Z')"""
        )
        await migrate(database_url)
        rows = await connection.execute("SELECT change, kind, actor, reason FROM revocation_history ORDER BY position")
        assert await rows.fetchall() == [
            ("revoked", "user", "ops", "left"),
            ("revoked", "token", "ops", ""),
            ("revoked", "session", "ops", ""),
            ("lifted", "session", "bob", ""),
        ]
        await connection.execute("UPDATE revocations SET lifted_at = now() WHERE kind = 'token'")
