"""What the ledger of ROWS decisions takes as Parquet, and how long a candidate policy is replayed over it.

    python -m tests.benchmarks.replay --rows 1000000

A day of the demo's policy (`tests.benchmarks.ledger`: 500 callers, whose tokens live for four minutes), and that day
again with other tokens until there are so many. The candidate halves a limit and takes a right away. One machine,
nothing pinned. With `--keep DIRECTORY` the files stay.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
from pydantic import SecretStr

from ext_authz.db.migrate import migrate
from ext_authz.ledger.export import export
from ext_authz.policy.load import load_policy
from ext_authz.policytool.parquet_replay import opened
from tests.benchmarks.figures import Figure, Progress, show
from tests.benchmarks.ledger import DEMO, ENVIRONMENT, write
from tests.parquet import events_of
from tests.postgres import running_postgres

SINCE, UNTIL = datetime(2026, 1, 1, tzinfo=UTC), datetime(2036, 1, 1, tzinfo=UTC)
_DAY = 86_400
_UNIQUE = 20_000
_STEPS = {"made": 5.0, "stored": 3.0, "exported": 1.0, "replayed": 2.0}
_NAMES = (
    *("decision_id", "reason", "code", "issuer", "subject", "client", "token_id", "route", "model", "model_version"),
    *("method", "path", "policy", "degraded", "username", "occurred_at", "facts"),
)


def decisions(day: list[dict[str, Any]], rows: int) -> Iterator[list[Any]]:
    """The day again and again, as rows of `usage_events`."""
    for number in range(rows):
        again, each = number // len(day), day[number % len(day)]
        at = datetime.fromisoformat(each["occurred_at"]) + timedelta(days=again)
        minted = UUID(each["decision_id"]).int + (again * _DAY * 1000 << 80)
        facts = dict(each["facts"])
        if facts.get("issued_at"):
            facts |= {name: facts[name] + again * _DAY for name in ("issued_at", "expires_at")}
        changed = {"decision_id": UUID(int=minted), "occurred_at": at, "facts": json.dumps(facts)}
        changed["token_id"] = each["token_id"] and f"{each['token_id']}-{again}"
        yield [{"username": "", **each, **changed}[name] for name in _NAMES]


def stored(url: str, day: list[dict[str, Any]], rows: int) -> None:
    """In Postgres."""
    with psycopg.connect(url) as connection, connection.cursor() as cursor:
        with cursor.copy(f"COPY usage_events ({', '.join(_NAMES)}) FROM STDIN") as copy:
            for row in decisions(day, rows):
                copy.write_row(row)
        connection.commit()


async def measured(rows: int, place: Path, keep: Path) -> list[Figure]:
    """Made, stored, exported, replayed."""
    progress = Progress(_STEPS)
    with progress.step("made"):
        await write(_UNIQUE, place / "day.jsonl")
    day = list(events_of(place / "day.jsonl"))
    with running_postgres() as server:
        await migrate(server.url)
        with progress.step("stored"):
            stored(server.url, day, rows)
        began = time.perf_counter()
        with progress.step("exported"):
            manifest = await export(SecretStr(server.url), SINCE, UNTIL, keep)
        exported = time.perf_counter() - began
    candidate = place / "new.yaml"
    text = (
        DEMO.read_text().replace("10/minute", "5/minute").replace("cancer: {roles: [infer]}", "cancer: {roles: [no]}")
    )
    candidate.write_text(text)
    began, used = time.perf_counter(), time.process_time()
    with progress.step("replayed"), opened(keep, None, None) as ledger:
        found = await ledger.compare(
            load_policy(DEMO, ENVIRONMENT), load_policy(candidate, ENVIRONMENT), lambda _: None
        )
    size = sum(file.bytes for file in manifest.files)
    return [
        Figure("decisions", manifest.rows, ""),
        Figure("exported per second", manifest.rows / exported, ""),
        Figure("Parquet, per million", size / manifest.rows, "MB"),
        Figure("replayed, of which differ", found.changed, ""),
        Figure("replay", time.perf_counter() - began, "s"),
        Figure("replay, processor", time.process_time() - used, "s"),
        Figure("most memory of this process", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "MB"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    os.environ |= ENVIRONMENT
    with tempfile.TemporaryDirectory() as place:
        keep = options.keep or Path(place) / "parquet"
        show("the ledger as Parquet", asyncio.run(measured(options.rows, Path(place), keep)))


if __name__ == "__main__":
    main()
