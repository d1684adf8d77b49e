from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
from psycopg.errors import InsufficientPrivilege, RaiseException

from ext_authz.db.postgres import Connection
from ext_authz.tokens import audit
from ext_authz.tokens.audit import Head, Verdict, record, verify
from tests.e2e.tokens.world import ALICE, COMMAND, World
from tests.postgres_roles import name_in, role


async def log(world: World, number: int) -> Head:
    """So many entries; where the log ends then."""

    async def write(connection: Connection) -> None:
        async with connection.transaction():
            for each in range(number):
                await record(
                    connection, ALICE, "grant.created", f"grant:{each}", {"ü": 'a "b"', "n": [each, None, 1.5]}
                )

    await world.pool.run(write)
    return (await verify(world.pool.run)).head


@contextmanager
def superuser(url: str) -> Iterator[psycopg.Connection]:
    """Who may switch off what protects the log."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")
        yield connection


async def test_a_whole_chain_is_good_over_many_pages(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    assert await verify(world.pool.run) == Verdict(Head(0, ""))
    head = await log(world, 7)
    assert head.position == 7
    monkeypatch.setattr(audit, "PAGE", 3)
    assert await verify(world.pool.run, head) == Verdict(head)
    assert await verify(world.pool.run, Head(7, "00")) == Verdict(
        head, 7, "it is another entry than the one that was there"
    )


@pytest.mark.parametrize(
    ("tampering", "at", "why"),
    [
        ("UPDATE audit_log SET actor = 'mallory' WHERE position = 3", 3, "it was changed"),
        ("UPDATE audit_log SET details = '{}' WHERE position = 5", 5, "it was changed"),
        ("UPDATE audit_log SET at = at + interval '1 microsecond' WHERE position = 2", 2, "it was changed"),
        ("DELETE FROM audit_log WHERE position = 4", 4, "it is missing"),
        ("DELETE FROM audit_log WHERE position = 1", 1, "it is missing"),
        ("DELETE FROM audit_log WHERE position > 4", 5, "entries that were there are missing at the end"),
        (
            "UPDATE audit_log SET actor = 'mallory' WHERE position = 3; "
            "UPDATE audit_log SET hash = audit_hash(audit_log) WHERE position = 3",
            4,
            "it does not follow the entry before it",
        ),
    ],
)
async def test_what_a_superuser_changes_shows_where_it_is(world: World, tampering: str, at: int, why: str) -> None:
    head = await log(world, 6)
    with superuser(world.database_url) as connection:
        connection.execute(tampering.encode())
    found = await verify(world.pool.run, head)
    assert (found.broken_at, found.why) == (at, why)
    assert found.head.position == at - 1


async def test_only_what_is_kept_elsewhere_shows_that_the_end_was_written_again(world: World) -> None:
    head = await log(world, 4)
    with superuser(world.database_url) as connection:
        connection.execute("DELETE FROM audit_log WHERE position = 4")
    other = await log(world, 1)
    assert other.position == 4
    assert await verify(world.pool.run) == Verdict(other)
    assert (await verify(world.pool.run, head)).broken_at == 4


async def test_nobody_edits_it_by_mistake_and_who_may_only_add_cannot_on_purpose(world: World) -> None:
    await log(world, 2)
    for statement in ("UPDATE audit_log SET actor = ''", "DELETE FROM audit_log", "TRUNCATE audit_log"):
        with psycopg.connect(world.database_url) as connection, pytest.raises(RaiseException, match="only added to"):
            connection.execute(statement.encode())
    with role(world.database_url, "GRANT SELECT, INSERT ON audit_log TO {role}") as url:
        for statement in (
            "UPDATE audit_log SET actor = ''",
            "DELETE FROM audit_log",
            "TRUNCATE audit_log",
            "ALTER TABLE audit_log DISABLE TRIGGER ALL",
            "SET session_replication_role = replica",
        ):
            with psycopg.connect(url) as connection, pytest.raises(InsufficientPrivilege):
                connection.execute(statement.encode())
        with psycopg.connect(url) as connection:
            # What it says of itself is not believed.
            connection.execute(
                "INSERT INTO audit_log VALUES (77, '2000-01-01', 'a', 'postgres', 'cli', '', 'x.y', 'o', '{}', '', '')"
            )
        ((position, login, hour),) = await world.sql(
            "SELECT position, role, at > now() - interval '1 hour' FROM audit_log ORDER BY position DESC LIMIT 1"
        )
        assert (position, login, hour) == (3, name_in(url), True)
    assert (await verify(world.pool.run)).broken_at == 0


async def test_a_frozen_client_does_not_hold_up_everybody_else(world: World) -> None:
    async def write(connection: Connection) -> str:
        async with connection.transaction():
            await record(connection, COMMAND, "key.rotated", "key:1", {})
            cursor = await connection.execute("SHOW idle_in_transaction_session_timeout")
            ((bound,),) = await cursor.fetchall()
        return str(bound)

    assert await world.pool.run(write) == "10s"
    assert await world.sql("SHOW idle_in_transaction_session_timeout") == [("0",)]


async def test_a_revocation_in_sql_is_in_it_too(world: World) -> None:
    await world.sql(
        "INSERT INTO revocations (kind, issuer, value, reason) "
        "VALUES ('token', 'kc', 'j1', 'by hand'), ('session', 'kc', 's1', '')"
    )
    await world.sql("UPDATE revocations SET lifted_at = now() WHERE value = 's1'")
    rows = await world.sql(
        "SELECT action, object, via, actor <> '', details->>'reason' FROM audit_log ORDER BY position"
    )
    assert rows == [
        ("revocation.created", "token:kc:j1", "sql", True, "by hand"),
        ("revocation.created", "session:kc:s1", "sql", True, ""),
        ("revocation.lifted", "session:kc:s1", "sql", True, ""),
    ]
    assert (await verify(world.pool.run)).head.position == 3
