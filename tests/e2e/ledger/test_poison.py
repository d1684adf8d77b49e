"""What one event can do to the others: nothing. It is kept with the reason, counted, and shown."""

from __future__ import annotations

import asyncio
import logging
from typing import Any
from uuid import UUID

import psycopg
import pytest
from click.testing import CliRunner

from ext_authz.db.postgres import connect
from ext_authz.ledger import postgres
from ext_authz.ledger.commands import usage
from ext_authz.ledger.event import encode
from ext_authz.ledger.metrics import LEDGER_MOVED
from ext_authz.ledger.stream import Row
from ext_authz.observability.metrics import DEPENDENCY_UP
from ext_authz.restarts import GivenUp
from tests.e2e.ledger.world import STREAM, World, event
from tests.postgres_roles import as_role
from tests.waiting import running, until

GOOD = [event() for _ in range(100)]
ID = b'{"decision_id":"01a1f90a-d880-7541-a59b-f814841f8b40"'

POISON = {
    "a NUL character": encode(event(path="/\0")),
    "a name that no index takes": encode(event(client="".join(map(chr, range(1, 9000))))),
    "half a surrogate pair": ID + b',"client":"\\ud800"}',
    "facts that are no text": ID + b',"facts":{"host":"\xff"}}',
    "facts that Postgres cannot read": ID + b',"facts":' + b"[" * 900 + b"]" * 900 + b"}",
    "facts that are too deep": ID + b',"facts":' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    "something unknown that is too deep": ID + b',"later":' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    "no JSON": b"\xff\xfe",
    "nothing": b"",
}


async def test_no_event_holds_up_the_others(world: World) -> None:
    before = LEDGER_MOVED.labels("broken")._value.get()
    for poison, good in zip(POISON.values(), GOOD, strict=False):
        await world.record(good)
        await world.record_raw({"e": poison, "o": 0})
    await world.record(*GOOD[len(POISON) :])
    async with running(world.worker(batch=30)):
        await until(world.drained)
    stored = {str(row[0]) for row in await world.sql("SELECT decision_id FROM usage_events")}
    assert {one.decision_id for one in GOOD} <= stored
    broken = len(await world.rejected())
    assert broken + len(stored) == len(GOOD) + len(POISON)
    assert broken >= len(POISON) - 1
    assert LEDGER_MOVED.labels("broken")._value.get() == before + broken


async def test_what_is_kept_is_shown(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.record_raw({"e": POISON["no JSON"], "o": 0})
    async with running(world.worker()):
        await until(world.drained)
    monkeypatch.setenv("TOLLGATE_DATABASE_URL", world.database_url)
    monkeypatch.setenv("TOLLGATE_REDIS_URL", world.redis_url)
    report = await asyncio.to_thread(CliRunner().invoke, usage, [])
    assert report.stderr == "1 event of this period could not be read: see tollgate usage rejects\n"
    shown = await asyncio.to_thread(CliRunner().invoke, usage, ["rejects"])
    assert shown.exit_code == 0
    _, line = shown.stdout.splitlines()
    assert STREAM in line
    assert "not a usage event: JSON is malformed" in line


class Constraint:
    """A check that an operator added, and a trigger that raises: about a row each."""

    CHECK = "ALTER TABLE usage_events ADD CHECK (client <> 'bad')"
    TRIGGER = """
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF NEW.client = 'bad' THEN
                RAISE EXCEPTION 'not this one';
            END IF;
            RETURN NEW;
        END $$;
        CREATE TRIGGER refuse BEFORE INSERT ON usage_events FOR EACH ROW EXECUTE FUNCTION refuse();
    """


@pytest.mark.parametrize("constraint", [Constraint.CHECK, Constraint.TRIGGER], ids=["check", "trigger"])
async def test_a_constraint_of_an_operator_costs_only_the_rows_that_it_is_about(world: World, constraint: str) -> None:
    with psycopg.connect(world.database_url, autocommit=True) as admin:
        admin.execute(constraint.encode())
    bad = [event(client="bad") for _ in range(3)]
    await world.record(*GOOD[:40], bad[0], *GOOD[40:70], *bad[1:], *GOOD[70:])
    async with running(world.worker(batch=1000)):
        await until(world.drained)
    assert await world.moved() == len(GOOD)
    assert len(await world.rejected()) == 3


async def test_one_bad_row_in_a_thousand_is_found_by_halving(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    transactions = 0
    write = postgres._write

    async def counted(*arguments: Any) -> postgres.Moved:  # noqa: ANN401 - those of `_write`
        nonlocal transactions
        transactions += 1
        return await write(*arguments)

    monkeypatch.setattr(postgres, "_write", counted)
    events = [event() for _ in range(999)]
    await world.record(*events[:700], event(path="/\0"), *events[700:])
    async with running(world.worker(batch=1000)):
        await until(world.drained)
    assert (await world.moved(), len(await world.rejected())) == (999, 1)
    assert transactions < 40


async def test_a_bug_about_one_event_does_not_stop_the_others(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    poison = event(client="poison")
    insert = postgres._insert

    async def buggy(connection: Any, rows: list[Row]) -> set[UUID]:  # noqa: ANN401 - that of `_insert`
        if any("poison" in row.cells for row in rows):
            raise KeyError("a bug")
        return await insert(connection, rows)

    monkeypatch.setattr(postgres, "_insert", buggy)
    await world.record(*GOOD[:50], poison, *GOOD[50:])
    async with running(world.worker()):
        await until(world.drained)
    assert await world.moved() == len(GOOD)
    assert await world.rejected() == ["a bug: 'a bug'"]


async def test_a_task_that_fails_for_an_unexpected_reason_is_started_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = world.worker()
    (stream,) = worker._streams
    read, failures = stream.read, [RuntimeError("a bug"), RuntimeError("another")]

    async def buggy(count: int) -> Any:  # noqa: ANN401 - that of `read`
        if failures:
            raise failures.pop()
        return await read(count)

    monkeypatch.setattr(stream, "read", buggy)
    await world.record(*GOOD)
    async with running(worker):
        await until(world.drained)
    assert await world.moved() == len(GOOD)


async def test_a_task_that_always_fails_ends_the_worker_with_the_reason(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ext_authz.restarts._LONGEST", 0.01)
    worker = world.worker()

    async def buggy(stop: asyncio.Event) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(worker, "_measure", buggy)
    with pytest.raises(GivenUp, match="measure failed: RuntimeError: a bug, and it was the end number 6"):
        await worker.run(asyncio.Event())


async def test_a_batch_that_takes_too_long_is_made_smaller(world: World) -> None:
    """statement_timeout of a role on a slow database: as a whole it would never get through."""
    with psycopg.connect(world.database_url, autocommit=True) as admin:
        admin.execute("""
            CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                PERFORM pg_sleep(0.02);
                RETURN NEW;
            END $$;
            CREATE TRIGGER slow BEFORE INSERT ON usage_events FOR EACH ROW EXECUTE FUNCTION slow();
        """)
    await world.record(*GOOD)
    worker = world.worker(batch=100)
    worker._url = as_role(world.database_url, "postgres", statement_timeout="1000")
    async with running(worker):
        await until(world.drained)
    assert (await world.moved(), await world.rejected()) == (len(GOOD), [])


async def test_each_cause_is_logged_once_and_counted(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with await connect(world.database_url) as admin:
        await admin.execute("ALTER TABLE usage_events RENAME TO elsewhere")
        async with running(world.worker()):
            await world.record(*GOOD)
            await until(lambda: _logged(caplog, "postgres: no table usage_events: run tollgate migrate"))
            assert DEPENDENCY_UP.labels("postgres")._value.get() == 0
            assert DEPENDENCY_UP.labels("redis")._value.get() == 1
            await admin.execute("ALTER TABLE elsewhere RENAME TO usage_events")
            await until(world.drained)
            await until(_postgres_is_up)
    assert len([record for record in caplog.records if record.message == "ledger: not moving"]) == 1


async def _postgres_is_up() -> bool:
    """Set when the batch that drained the stream is over."""
    return bool(DEPENDENCY_UP.labels("postgres")._value.get() == 1)


async def _logged(caplog: pytest.LogCaptureFixture, cause: str) -> bool:
    return any(getattr(record, "error", "") == cause for record in caplog.records)
