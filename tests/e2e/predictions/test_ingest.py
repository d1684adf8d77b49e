"""From files of models into a real Postgres: each row once, of the caller that the ledger names, as the policy says."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from pydantic import SecretStr

from ext_authz.clock import SystemClock
from ext_authz.db.postgres import Connection, connect
from ext_authz.errors import ConfigError
from ext_authz.ledger.metrics import PREDICTIONS_MOVED
from ext_authz.policy.load import load_policy
from ext_authz.policy.model import Policy
from ext_authz.predictions import ingest, postgres
from ext_authz.predictions.files import Line
from ext_authz.predictions.ingest import Ingest
from tests.e2e.ledger.world import World, event, moved, process, world_of
from tests.fakes import FakeClock
from tests.postgres import running_postgres
from tests.predictions import left, line, write
from tests.waiting import running, until

POLICY = """
version: 1
resource: {url: https://models.example}
issuers:
  - {name: demo, issuer: https://idp.example, audiences: [mesh], jwks_url: "https://idp.example/keys"}
models:
  sentiment: {roles: [infer], predictions: {inputs: full, keep: 7d, readers: {role: owner}}}
  cancer: {roles: [infer], predictions: {inputs: hashed, readers: {role: owner}}}
  cars: {roles: [infer], predictions: {readers: {role: owner}}}
  digits: {roles: [infer]}
routes:
  - {name: infer, operation: infer}
"""
DELETION = postgres.Deletion(uuid.uuid4(), "other", datetime.fromtimestamp(0, UTC), datetime.now(UTC))
KEY = b"0123456789abcdef0123456789abcdef"


@pytest.fixture
async def world(database_url: str, redis_url: str) -> AsyncIterator[World]:
    async with world_of(database_url, redis_url) as world:
        yield world


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "predictions").mkdir()
    (tmp_path / "policy.yaml").write_text(POLICY)
    return tmp_path / "predictions"


@pytest.fixture
async def connection(world: World) -> AsyncIterator[Connection]:
    async with await connect(world.database_url) as connection:
        yield connection


def counted(result: str) -> float:
    return float(PREDICTIONS_MOVED.labels(result)._value.get())


class Mover:
    """What the usage worker does with the directory, step by step."""

    def __init__(self, world: World, directory: Path, connection: Connection) -> None:
        self.clock = FakeClock()
        self._connection = connection
        self.ingest = Ingest(SecretStr(world.database_url), directory, lambda: policy(directory), KEY, self.clock)

    async def move(self) -> None:
        await self.ingest.move(self._connection, asyncio.Event())

    async def forget(self) -> None:
        await self.ingest.forget(self._connection, asyncio.Event())


@pytest.fixture
def mover(world: World, directory: Path, connection: Connection) -> Mover:
    return Mover(world, directory, connection)


def policy(directory: Path) -> Policy:
    return load_policy(directory.parent / "policy.yaml", {})


async def decided(world: World, **fields: str) -> str:
    """A call that the ledger has."""
    call = event(issuer="https://idp.example", subject="alice", **fields)
    await moved(world, call)
    return call.decision_id


async def test_a_row_has_what_the_line_says_and_who_called(world: World, directory: Path, mover: Mover) -> None:
    at = time.time() - 5
    decision = await decided(world)
    said = {"row": 3, "at": at, "version": "2", "variant": "canary", "mirrored": True, "left_out": []}
    write(directory, line(decision, **said, subject="mallory", client="forged"))
    await mover.move()
    ((*row, when),) = await world.sql(
        "SELECT decision_id::text, row, model, version, variant, mirrored, issuer, subject, client, inputs, "
        "input_hash, outputs, milliseconds, bytes, host, at FROM predictions"
    )
    assert row == [
        *(decision, 3, "sentiment", "2", "canary", True, "https://idp.example", "alice", "shop"),
        *({"text": "good"}, None, {"label": "positive"}, 1.5, 4, "pod-1"),
    ]
    assert abs(when.timestamp() - at) < 1e-3
    assert not left(directory)


async def test_each_model_has_what_the_policy_keeps(world: World, directory: Path, mover: Mover) -> None:
    for model in ("sentiment", "cancer", "cars", "digits", "unknown"):
        write(directory, line(await decided(world, model=model), model=model), model=model)
    before = counted("not_kept")
    await mover.move()
    rows = await world.sql("SELECT model, inputs IS NULL, length(input_hash) FROM predictions ORDER BY model")
    assert rows == [("cancer", True, 32), ("cars", True, None), ("sentiment", False, None)]
    assert counted("not_kept") - before == 2
    assert not left(directory)


async def test_what_is_written_again_is_there_once(world: World, directory: Path, mover: Mover) -> None:
    decision = await decided(world)
    rows = [line(decision, row=row) for row in range(1200)]
    write(directory, *rows)
    write(directory, *rows)  # as after a kill between commit and removal
    await mover.move()
    assert await world.sql("SELECT count(*), count(DISTINCT row) FROM predictions") == [(1200, 1200)]


async def test_a_broken_line_stops_nothing(world: World, directory: Path, mover: Mover) -> None:
    decision = await decided(world)
    nul = line(decision, outputs={"label": "a\0b"})
    surrogate = line(decision, inputs={"text": "\ud800"})
    before = counted("broken")
    write(directory, line(decision), b"no json", nul, surrogate, line(decision, version="a\0"), line(decision))
    await mover.move()
    assert await world.sql("SELECT count(*) FROM predictions") == [(2,)]
    assert counted("broken") - before == 4
    assert not left(directory)


async def test_who_called_past_the_authorizer_is_not_in_it(world: World, directory: Path, mover: Mover) -> None:
    """Neither a decision that nobody made, nor one of another model, nor a refusal."""
    foreign, refused = await decided(world, model="cancer"), await decided(world, reason="forbidden")
    stream = await decided(world, model="")
    before = counted("unknown")
    write(directory, line(str(uuid.uuid4())), line(foreign), line(refused), line(stream))
    await mover.move()
    assert await world.sql("SELECT decision_id::text FROM predictions") == [(stream,)]
    assert left(directory), "it waits for the ledger"
    mover.clock.advance(ingest.WAIT + 1)
    await mover.move()
    assert not left(directory)
    assert counted("unknown") - before == 3


async def test_a_file_waits_for_the_ledger(world: World, directory: Path, mover: Mover) -> None:
    early = event(subject="alice")
    write(directory, line(early.decision_id))
    await mover.move()
    assert await world.sql("SELECT count(*) FROM predictions") == [(0,)]
    await moved(world, early)
    await mover.move()
    assert await world.sql("SELECT count(*) FROM predictions") == [(0,)], "not read again at once"
    mover.clock.advance(ingest.AGAIN)
    await mover.move()
    assert await world.sql("SELECT subject FROM predictions") == [("alice",)]
    assert not left(directory)


async def test_nothing_is_kept_longer_than_the_policy_says(world: World, directory: Path, mover: Mover) -> None:
    decision, old = await decided(world), time.time() - 8 * 86_400
    before = counted("expired")
    write(directory, line(decision, at=old), line(decision))
    await mover.move()
    assert counted("expired") - before == 1
    for model, days in (("sentiment", 6), ("sentiment", 8), ("cancer", 8), ("cancer", 31), ("gone", 29), ("gone", 31)):
        await put(world, model, days)
    await mover.forget()
    left = await world.sql("SELECT model, count(*) FROM predictions GROUP BY 1 ORDER BY 1")
    assert left == [("cancer", 1), ("gone", 1), ("sentiment", 2)]


async def put(world: World, model: str, days: int) -> None:
    """A row that has been there for so long."""
    at = datetime.now(UTC) - timedelta(days=days)
    own = str(uuid.UUID(int=postgres.id_at(at).int + uuid.uuid4().int % 2**64))
    said = line(str(uuid.uuid4()), id=own, at=at.timestamp(), model=model)
    row = postgres.Row(
        msgspec.json.decode(msgspec.json.encode(said), type=Line),
        postgres.Caller("i", "s", "c", model, "allowed"),
        None,
        None,
    )
    async with await connect(world.database_url) as connection:
        assert await postgres.write(connection, [row]) == (1, 0)


async def test_what_expired_goes_in_small_steps(world: World, mover: Mover, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "STEP", 2)
    for _ in range(5):
        await put(world, "sentiment", 8)
    await mover.forget()
    assert await world.sql("SELECT count(*) FROM predictions") == [(0,)]


async def test_a_deletion_holds_for_files_too(
    world: World, directory: Path, mover: Mover, connection: Connection
) -> None:
    one, other = await decided(world), await decided(world)
    now = time.time()
    rows = [line(one, at=now - 10), line(other, at=now - 10), line(one, at=now - 100), line(one, model="cars")]
    await connection.execute(
        "INSERT INTO prediction_deletions (id, model, since, until, decision_id) VALUES "
        "(%s, 'sentiment', to_timestamp(%s), to_timestamp(%s), NULL), (%s, 'sentiment', to_timestamp(0), now(), %s)",
        (uuid.uuid4(), now - 200, now - 50, uuid.uuid4(), one),
    )
    write(directory, *rows[:3])
    await mover.move()
    assert await world.sql("SELECT decision_id::text FROM predictions") == [(other,)]


async def test_a_deletion_that_was_not_finished_is_finished(
    world: World, mover: Mover, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "STEP", 1)
    for days in (1, 2, 3):
        await put(world, "sentiment", days)
    await connection.execute(
        "INSERT INTO prediction_deletions (id, model, since, until) "
        "VALUES (%s, 'sentiment', to_timestamp(0), now() - %s)",
        (uuid.uuid4(), timedelta(hours=36)),
    )
    await mover.forget()
    assert await world.sql("SELECT count(*) FROM predictions") == [(1,)]
    assert await world.sql("SELECT done FROM prediction_deletions") == [(True,)]


async def test_who_deletes_waits_for_writers_and_they_for_them(world: World, connection: Connection) -> None:
    """So no row comes after its deletion."""
    write_one = put(world, "sentiment", 1)
    async with connection.transaction():
        await postgres.begin(connection, DELETION)
        writing = asyncio.ensure_future(write_one)
        waiting = "SELECT count(*) > 0 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"

        async def waits() -> object:
            return (await world.sql(waiting))[0][0]

        await until(waits)
        assert await world.sql("SELECT count(*) FROM predictions") == [(0,)]
    await writing
    assert await world.sql("SELECT count(*) FROM predictions") == [(1,)]


async def test_a_policy_that_becomes_wrong_changes_nothing(
    world: World, directory: Path, mover: Mover, caplog: pytest.LogCaptureFixture
) -> None:
    (directory.parent / "policy.yaml").write_text("nonsense")
    mover.clock.advance(ingest.READ_POLICY + 1)
    await mover.ingest._renew_policy()
    assert "the policy before stays in force" in caplog.text
    (directory.parent / "policy.yaml").write_text(POLICY.replace("inputs: full, ", ""))
    mover.clock.advance(ingest.READ_POLICY + 1)
    await mover.ingest._renew_policy()
    write(directory, line(await decided(world)))
    await mover.move()
    assert await world.sql("SELECT inputs FROM predictions") == [(None,)]


def test_hashed_inputs_take_a_key(directory: Path) -> None:
    with pytest.raises(
        ConfigError, match="TOLLGATE_PREDICTIONS_KEY is missing: the policy keeps hashed inputs of canc"
    ):
        Ingest(SecretStr("postgresql://"), directory, lambda: policy(directory), b"", SystemClock())


async def test_the_worker_is_killed_again_and_again(world: World, directory: Path) -> None:
    """20 files, a worker that is killed twice on the way, and every row is there once."""
    decision = await decided(world)
    for _ in range(20):
        write(directory, *[line(decision, row=row) for row in range(500)])
    settings = {
        "TOLLGATE_PREDICTIONS": str(directory),
        "TOLLGATE_PREDICTIONS_KEY": KEY.decode(),
        "TOLLGATE_POLICY": str(directory.parent / "policy.yaml"),
    }

    async def rows() -> int:
        return int((await world.sql("SELECT count(*) FROM predictions"))[0][0])

    for kill in range(1, 3):
        with process(world, "worker", 100, **settings) as worker:
            wanted = kill * 1000

            async def some(wanted: int = wanted) -> bool:
                return await rows() >= wanted

            await until(some, 60)
            worker.kill()
    with process(world, "worker", 100, **settings) as worker:
        await until(lambda: not left(directory), 60)
        assert worker.stop() == 0
    assert await rows() == 10_000


async def test_while_postgres_is_away_files_stay(redis_url: str, directory: Path) -> None:
    with running_postgres() as server:
        async with world_of(server.url, redis_url) as world:
            decision = await decided(world)
            mover = Ingest(SecretStr(world.database_url), directory, lambda: policy(directory), KEY, SystemClock())
            server.kill()
            write(directory, line(decision))
            async with running(mover):
                await until(lambda: mover._outage._logged)
                assert left(directory)
                server.start()
                await until(lambda: not left(directory), 30)
            assert await world.sql("SELECT count(*) FROM predictions") == [(1,)]
