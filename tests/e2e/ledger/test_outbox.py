"""The outbox: what is sent, when, and in which state; and that a change that comes meanwhile is not lost."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from msgspec import structs

from ext_authz.db.migrate import migrate
from ext_authz.db.postgres import Connection, connect
from ext_authz.ledger import outbox
from ext_authz.ledger.outcome import insert
from ext_authz.ledger.reconcile import GRACE
from tests.e2e.ledger.test_rollups import id_of, outcome, row, write
from tests.postgres_roles import role

BEFORE = datetime.fromtimestamp(1_795_000_000, UTC)
"""When the decision 0 was made; the next ones come milliseconds later."""
LATER = BEFORE + GRACE + timedelta(seconds=1)


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[Connection]:
    """Somebody publishes."""
    await migrate(database_url)
    async with await connect(database_url) as connection:
        await outbox.begin(connection)
        yield connection


async def published(connection: Connection, now: datetime = BEFORE, most: int = 100) -> list[tuple[UUID, int, str]]:
    batch = await outbox.take(connection, now, most)
    await outbox.sent(connection, batch)
    return sorted((each.decision_id, each.revision, each.outcome) for each in batch.decisions)


async def test_nothing_is_collected_before_somebody_publishes(database_url: str) -> None:
    await migrate(database_url)
    async with await connect(database_url) as connection:
        await write(connection, row(1), row(2, "forbidden"))
        await insert(connection, [outcome(1, 200)])
        assert await outbox.state(connection) == outbox.State(None, 0, 0)
        assert await outbox.again(connection, BEFORE, LATER) == 0
        await outbox.begin(connection)
        await outbox.begin(connection)
        assert await published(connection, LATER) == []
        assert await outbox.again(connection, BEFORE, LATER) == 1  # the other one came a quarter of an hour later
        assert await published(connection) == [(id_of(1), 2, "served")]


async def test_an_allowed_call_waits_for_its_outcome(connection: Connection) -> None:
    await write(connection, row(1), row(2, "forbidden"), row(3))
    assert await published(connection) == [(id_of(2), 1, "denied")]
    await insert(connection, [outcome(3, 500)])
    assert await published(connection) == [(id_of(3), 2, "server_error")]
    assert await published(connection) == []
    assert await published(connection, LATER) == [(id_of(1), 1, "unsettled")]
    assert (await outbox.state(connection)).waiting == 0


async def test_what_comes_later_is_another_revision(connection: Connection) -> None:
    await write(connection, row(1), row(2))
    assert [revision for _, revision, _ in await published(connection, LATER)] == [1, 1]
    await insert(connection, [outcome(1, 200), outcome(2, 200)])
    assert await published(connection) == [(id_of(1), 2, "served"), (id_of(2), 2, "served")]
    await write(connection, row(2, "unavailable", seconds=7))
    assert await published(connection) == [(id_of(2), 4, "unavailable")]


async def test_an_outcome_that_comes_before_its_decision(connection: Connection) -> None:
    await insert(connection, [outcome(1, 200)])
    assert await published(connection, LATER) == []
    await write(connection, row(1))
    assert await published(connection, LATER) == [(id_of(1), 2, "served")]


async def test_a_change_while_the_state_before_it_is_sent_is_not_lost(connection: Connection) -> None:
    await write(connection, row(1))
    batch = await outbox.take(connection, LATER, 100)
    await insert(connection, [outcome(1, 200)])
    await outbox.sent(connection, batch)
    assert [each.outcome for each in batch.decisions] == ["unsettled"]
    assert await published(connection) == [(id_of(1), 2, "served")]
    batch = await outbox.take(connection, LATER, 100)
    assert batch.rows == []


async def test_what_was_not_acknowledged_is_the_same_event_again(connection: Connection) -> None:
    await write(connection, row(1), row(2, "forbidden"))
    await insert(connection, [outcome(1, 200)])
    once = await outbox.take(connection, LATER, 100)
    assert await outbox.take(connection, LATER, 100) == once
    assert await outbox.again(connection, BEFORE, LATER + timedelta(hours=1)) == 2
    assert (await outbox.take(connection, LATER, 100)).decisions == once.decisions


async def test_a_batch_is_bounded_and_takes_the_oldest(connection: Connection) -> None:
    await write(connection, *[row(number, "forbidden") for number in (5, 3, 1, 4, 2)])
    assert [found[0] for found in await published(connection, most=2)] == [id_of(1), id_of(2)]
    state = await outbox.state(connection)
    assert state.waiting == 3
    assert state.age == pytest.approx(time.time() - BEFORE.timestamp(), abs=60)


async def test_a_call_that_waits_for_its_outcome_is_not_late(connection: Connection) -> None:
    young = UUID(int=int(time.time() * 1000) << 80)
    await connection.execute("INSERT INTO usage_outbox VALUES (false, %s, 'event')", (young,))
    assert (await outbox.state(connection)).age == 0
    await connection.execute("INSERT INTO usage_outbox VALUES (false, %s, 'event')", (id_of(1),))
    assert (await outbox.state(connection)).age > GRACE.total_seconds()


async def is_published(connection: Connection, before: datetime) -> bool:
    cursor = await connection.execute("SELECT usage_is_published(%s)", (before,))
    ((found,),) = await cursor.fetchall()
    return bool(found)


async def test_rows_may_go_when_they_were_published(connection: Connection) -> None:
    """What deletes a month asks `usage_is_published`."""
    await write(connection, row(1))
    assert not await is_published(connection, LATER)
    assert await is_published(connection, BEFORE - timedelta(hours=2))
    await published(connection, LATER)
    assert await is_published(connection, LATER)
    await insert(connection, [outcome(1, 200)])
    assert not await is_published(connection, LATER)
    assert await outbox.end(connection) == 1
    assert await is_published(connection, LATER)
    await write(connection, row(2))
    assert (await outbox.state(connection)) == outbox.State(None, 0, 0)


@pytest.mark.parametrize("needs", [outbox.NEEDS, outbox.NEEDS_OF_OPERATORS], ids=["publisher", "operators"])
async def test_these_privileges_suffice(database_url: str, needs: dict[str, tuple[str, ...]]) -> None:
    await migrate(database_url)
    grants = [f"GRANT {', '.join(rights)} ON {table} TO {{role}}" for table, rights in needs.items()]
    with role(database_url, *grants) as url:
        async with await connect(database_url) as owner, await connect(url) as connection:
            await outbox.begin(connection if needs is outbox.NEEDS else owner)
            await write(owner, row(2, "forbidden"))
            if needs is outbox.NEEDS:
                assert len(await published(connection)) == 1
            else:
                assert (await outbox.state(connection)).waiting == 1
                assert await outbox.again(connection, BEFORE, LATER + timedelta(hours=1)) == 1
                assert await outbox.end(connection) == 2


async def test_a_writer_needs_no_privilege_for_it(connection: Connection, database_url: str) -> None:
    grants = (
        "GRANT SELECT, INSERT, UPDATE ON usage_events TO {role}",
        "GRANT INSERT ON call_outcomes, usage_rejects TO {role}",
    )
    with role(database_url, *grants) as url:
        async with await connect(url) as worker:
            await write(worker, row(1))
            await insert(worker, [outcome(1, 200)])
    assert structs.asdict(await outbox.state(connection))["waiting"] == 2
