"""Publisher, broker and Postgres are killed while decisions come: a reader of the topic has each of them once."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from decimal import Decimal
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from jsonschema import Draft202012Validator

from ext_authz.db.migrate import migrate
from ext_authz.db.postgres import connect
from ext_authz.ledger.decision_event import TYPE, Message, schema
from ext_authz.ledger.outcome import insert
from tests.e2e.ledger.test_rollups import outcome, row, write
from tests.e2e.publish.broker import Broker, running_broker
from tests.postgres import PostgresServer, running_postgres
from tests.waiting import until

CHUNK = 20
PAUSE = 0.05
"""Seconds between two chunks: what comes later comes to the same outbox."""
VALIDATOR = Draft202012Validator(schema())
ROWS = "SELECT decision_id, outcome, client, requests, units, bytes_in, bytes_out, seconds FROM billable"


@contextmanager
def publisher(postgres: PostgresServer, broker: Broker) -> Iterator[subprocess.Popen[bytes]]:
    settings = {"DATABASE_URL": postgres.url, "KAFKA_SERVERS": broker.address, "KAFKA_SECURITY": "plaintext"}
    environ = os.environ | {f"TOLLGATE_{name}": value for name, value in settings.items()}
    process = subprocess.Popen([sys.executable, "-m", "ext_authz", "ledger", "publish"], env=environ)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


class Writer:
    """A usage worker: repeats what was not committed."""

    def __init__(self, url: str) -> None:
        self.chunks = 0
        self._url = url
        self._stop = False

    async def run(self) -> None:
        numbers = count()
        while not self._stop:
            chunk = list(islice(numbers, CHUNK))
            await until(partial(self._written, chunk))
            self.chunks += 1
            await asyncio.sleep(PAUSE)

    async def _written(self, numbers: list[int]) -> bool:
        """Every third is refused, every sixth has no outcome, and some are answered with 503 after all."""
        with suppress(psycopg.Error, OSError):
            async with await connect(self._url) as connection:
                await write(connection, *[row(each, "allowed" if each % 3 else "forbidden") for each in numbers])
                await insert(connection, [outcome(each, 200) for each in numbers if each % 3 and each % 6 != 1])
                await write(connection, *[row(each, "unavailable", 5) for each in numbers if each % 10 == 1])
                return True
        return False

    def stop(self) -> None:
        self._stop = True


@pytest.mark.timeout(300)
async def test_nothing_is_lost_and_nothing_counts_twice(tmp_path: Path) -> None:
    with running_postgres() as postgres, running_broker(tmp_path) as broker:
        await migrate(postgres.url)
        with publisher(postgres, broker) as first:
            await until(lambda: one(postgres, "SELECT count(*) FROM usage_publishing"), seconds=120)
            writer = Writer(postgres.url)
            writing = asyncio.create_task(writer.run())
            await until(lambda: broker.count() > 200, seconds=120)
            first.kill()
        with publisher(postgres, broker) as second:
            await ensure_kafka_away_costs_nothing(broker, writer, postgres)
            await until(more(broker), seconds=120)
            postgres.kill()
            postgres.start()
            await until(more(broker), seconds=120)
            writer.stop()
            await writing
            await until(lambda: not one(postgres, "SELECT count(*) FROM usage_outbox"), seconds=120)
            second.terminate()
            assert await asyncio.to_thread(second.wait, 20) == 0
        compare(broker.messages(), postgres)


async def ensure_kafka_away_costs_nothing(broker: Broker, writer: Writer, postgres: PostgresServer) -> None:
    broker.kill()
    written = writer.chunks
    await until(lambda: writer.chunks > written + 20, seconds=120)
    assert one(postgres, "SELECT count(*) FROM usage_outbox") >= 20 * CHUNK
    await asyncio.to_thread(broker.restart)


def more(broker: Broker) -> Callable[[], bool]:
    before = broker.count()
    return lambda: broker.count() > before


def one(postgres: PostgresServer, query: str) -> int:
    with psycopg.connect(postgres.url) as connection:
        found = connection.execute(query.encode()).fetchone()
        assert found
        return int(found[0])


def compare(messages: list[Message], postgres: PostgresServer) -> None:
    """As a reader of the topic does: by id, and of each decision the greatest revision."""
    events: dict[str, Message] = {}
    for message in messages:
        headers = dict(message.headers)
        identity = headers["ce_id"].decode()
        assert events.setdefault(identity, message).value == message.value, "one id, two events"
    latest: dict[UUID, Mapping[str, Any]] = {}
    for identity, message in events.items():
        decision = read(identity, message)
        held = latest.setdefault(UUID(decision["decision_id"]), decision)
        if held["revision"] < decision["revision"]:
            latest[UUID(decision["decision_id"])] = decision
    with psycopg.connect(postgres.url) as connection:
        ledger = {row[0]: row[1:] for row in connection.execute(ROWS)}
    names = ("outcome", "client", "requests", "units", "bytes_in", "bytes_out", "seconds")
    assert {key: tuple(each[name] for name in names) for key, each in latest.items()} == ledger
    assert len(ledger) > 40 * CHUNK
    assert Counter(each[0] for each in ledger.values()).keys() >= {"served", "denied", "unavailable", "unsettled"}


def read(identity: str, message: Message) -> dict[str, Any]:
    decision: dict[str, Any] = json.loads(message.value, parse_float=Decimal)
    VALIDATOR.validate(json.loads(message.value))
    assert identity == f"{decision['decision_id']}.{decision['revision']}"
    assert message.key == decision["client"].encode()
    headers = {name: value.decode() for name, value in message.headers}
    assert headers["ce_type"] == TYPE
    assert (headers["ce_specversion"], headers["ce_source"]) == ("1.0", "/tollgate")
    assert headers["content-type"] == "application/json"
    assert datetime.fromisoformat(headers["ce_time"]) == datetime.fromisoformat(decision["occurred_at"])
    return decision
