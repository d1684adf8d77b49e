"""The sums in ClickHouse's engine are those of Postgres, though events come twice, late and in any order."""

from __future__ import annotations

import json
import random
import subprocess
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from ext_authz.db.migrate import migrate
from ext_authz.db.postgres import Connection, connect
from ext_authz.ledger import clickhouse, outbox
from ext_authz.ledger.decision_event import message
from ext_authz.ledger.outcome import insert
from ext_authz.ledger.rollups import fold
from tests.e2e.ledger.test_rollups import outcome, row, write

HERE = Path(__file__).parent / "warehouse"
PYTHON = HERE / ".venv/bin/python"
NUMBERS = range(0, 1400, 3)
"""A quarter of an hour each: the later ones were taken in the month after."""
NAMES = ("client", "issuer", "subject", "model", "model_version", "route", "outcome", "billed", "calls", "requests")
SUMS = ("units", "bytes_in", "bytes_out", "seconds")
POSTGRES = f"SELECT extract(epoch FROM day)::int, {', '.join(NAMES + SUMS)} FROM usage_daily WHERE calls <> 0"


async def events(connection: Connection) -> list[bytes]:
    """What waits, also where an outcome may come yet."""
    batch = await outbox.take(connection, datetime.now(UTC), 10_000)
    await outbox.sent(connection, batch)
    return [message(decision, "/").value for decision in batch.decisions]


def shuffled(*parts: Sequence[bytes]) -> bytes:
    lines = [line for part in parts for line in part]
    random.Random(7).shuffle(lines)
    return b"\n".join(lines)


@pytest.mark.skipif(not PYTHON.exists(), reason="needs the environment of `make warehouse`")
async def test_sums_by_day_are_those_of_postgres(database_url: str, tmp_path: Path) -> None:
    await migrate(database_url)
    async with await connect(database_url) as connection:
        await outbox.begin(connection)
        await write(connection, *[row(each, "allowed" if each % 4 else "forbidden") for each in NUMBERS])
        await insert(connection, [outcome(each, 200) for each in NUMBERS if each % 4 and each % 5])
        first = await events(connection)
        await insert(connection, [outcome(each, 500) for each in NUMBERS if each % 4 and each % 10 == 0])
        second = await events(connection)
        await write(connection, *[row(each, "unavailable", 86_400) for each in NUMBERS if each % 7 == 1 and each % 4])
        third = await events(connection)
        while await fold(connection):
            pass
        expected = Counter(await (await connection.execute(POSTGRES)).fetchall())
    assert first
    assert second
    assert third
    (tmp_path / "1").write_bytes(shuffled(first, second, second))
    (tmp_path / "2").write_bytes(shuffled(third, first, third))
    assert Counter(sums(tmp_path / "1", tmp_path / "2")) == expected
    assert len({day for day, *_ in expected}) > 14


def sums(*files: Path) -> list[tuple[Any, ...]]:
    command = [PYTHON, HERE / "sums.py", clickhouse.DIRECTORY, *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [json.loads(line, parse_float=Decimal) for line in done.stdout.splitlines() if line]
    return [
        tuple(Decimal(each[name]) if name in SUMS else each[name] for name in ("day", *NAMES, *SUMS)) for each in rows
    ]
