"""`tollgate ledger export`: what Postgres has, as files; and the same report of a replay from any of them."""

from __future__ import annotations

import asyncio
import errno
import json
from contextlib import aclosing
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner, Result
from pyarrow import parquet as pq

from ext_authz.cli import cli
from ext_authz.db.migrate import migrate
from ext_authz.db.postgres import connect
from ext_authz.errors import ConfigError, Unavailable
from ext_authz.ledger import export, parquet
from ext_authz.ledger.parquet import BILLABLE, MANIFEST
from tests.properties.test_grouped_replay import CHANGES, calls
from tests.properties.test_replay import POLICY, Event
from tests.unit.policytool.command_line import ENVIRONMENT, written

DAY = 86_400
PERIOD = ("--since", "2027-01-15", "--until", "2027-01-18T12:00:00Z")
SINCE, UNTIL = datetime(2027, 1, 15, tzinfo=UTC), datetime(2027, 1, 18, 12, tzinfo=UTC)
ROW = """
INSERT INTO usage_events (decision_id, occurred_at, reason, code, degraded, model_version, issuer, subject, client,
    token_id, route, model, method, path, policy, facts, username)
VALUES (%(decision_id)s, %(occurred_at)s, %(reason)s, %(code)s, '', '', %(issuer)s, %(subject)s, %(client)s,
    %(token_id)s, %(route)s, %(model)s, %(method)s, %(path)s, '', %(facts)s, 'somebody')
"""
OUTCOME = """
INSERT INTO call_outcomes (decision_id, status, flags, details, duration_ms, bytes_in, bytes_out, upstream,
    upstream_address, attempts, upstream_ms, units) VALUES (%s, %s, '', '', 12.5, %s, 300, '', '', 1, 11.2345678, %s)
"""


@pytest.fixture
def ledger(database_url: str) -> str:
    """Three days; two of the calls are after the end of the period."""
    asyncio.run(migrate(database_url))
    found = [_later(each, (number % 3) * DAY) for number, each in enumerate(calls(7))]
    found += [_later(each, 4 * DAY) for each in calls(8)[:2]]
    with psycopg.connect(database_url) as connection:
        for number, each in enumerate(found):
            each["decision_id"] = f"019bc000-{number:04x}-7000-8000-000000000000"
            connection.execute(ROW, {**each, "facts": json.dumps(each["facts"])})
            if number % 2:
                status = 200 if number % 3 else 500
                connection.execute(OUTCOME, (each["decision_id"], status, number, number % 5 or None))
    return database_url


def _later(call: Event, seconds: int) -> Event:
    at = datetime.fromisoformat(call["occurred_at"]).timestamp() + seconds
    return {**call, "occurred_at": datetime.fromtimestamp(at, UTC).isoformat()}


def tollgate(url: str, *arguments: str | Path) -> Result:
    """The command; whatever it raises is raised."""
    environ = ENVIRONMENT | {"TOLLGATE_DATABASE_URL": url}
    return CliRunner().invoke(cli, list(map(str, arguments)), env=environ, catch_exceptions=False)


def rows(directory: Path) -> list[dict[str, Any]]:
    return [row for path in sorted(directory.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def test_it_has_what_bills_count(ledger: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "BATCH", 7)
    monkeypatch.setattr(export, "FILE_ROWS", 35)
    result = tollgate(ledger, "ledger", "export", *PERIOD, "--to", tmp_path / "new" / "directory")
    assert result.output.startswith("150 decisions in 5 files, ")
    found = rows(tmp_path / "new" / "directory")
    names = ("decision_id", "occurred_at", "client", "model", *BILLABLE)
    with psycopg.connect(ledger) as connection:
        billable = connection.execute(
            "SELECT decision_id::text, occurred_at, client, model, outcome, billed, requests, units, bytes_in,"
            " bytes_out, seconds FROM billable WHERE occurred_at >= %s AND occurred_at < %s",
            (SINCE, UNTIL),
        ).fetchall()
    assert sorted(tuple(row[name] for name in names) for row in found) == sorted(map(tuple, billable))
    assert sum(row["seconds"] for row in found) > Decimal("0.5")
    names_of_files = sorted(path.name for path in (tmp_path / "new" / "directory").iterdir())
    assert names_of_files == [*(f"decisions-00000{number}.parquet" for number in range(5)), MANIFEST]
    assert "somebody" not in str(found), "no user names"


def test_the_report_is_the_same_from_postgres_from_lines_and_from_parquet(ledger: str, tmp_path: Path) -> None:
    lines = tmp_path / "ledger.jsonl"
    lines.write_bytes(tollgate(ledger, "usage", "export", *PERIOD).stdout_bytes)
    tollgate(ledger, "ledger", "export", *PERIOD, "--to", tmp_path / "parquet")
    old = written(tmp_path, POLICY, "old.yaml")
    for name in ("a right", "a limit by token", "the time of day"):
        text = POLICY
        for before, after in CHANGES[name]:
            text = text.replace(before, after)
        new = written(tmp_path, text, "new.yaml")
        sources = (("postgresql", *PERIOD), (lines,), (tmp_path / "parquet",))
        first, *others = (tollgate(ledger, "policy", "diff", old, new, "--replay", *source) for source in sources)
        assert "150 recorded decisions from 2027-01-15T08:00:0" in first.output
        assert [each.output for each in others] == [first.output] * 2


async def test_all_is_of_one_time(ledger: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "BATCH", 10)
    async with await connect(ledger) as connection, await connect(ledger) as writer:
        async with aclosing(export._batches(connection, SINCE, UNTIL)) as batches:
            first = await anext(batches)
            await writer.execute("DELETE FROM usage_events WHERE occurred_at >= '2027-01-16'")
            with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
                await _deleted_by(connection)
            assert sum([len(some) async for some in batches]) == 150 - len(first)
        async with aclosing(export._batches(connection, SINCE, UNTIL)) as batches:
            assert sum([len(some) async for some in batches]) == 50


async def _deleted_by(connection: Any) -> None:  # noqa: ANN401 - psycopg's
    async with connection.transaction():
        await connection.execute("DELETE FROM usage_events")


def test_a_directory_that_cannot_be_used_is_refused(ledger: str, tmp_path: Path) -> None:
    for directory, sentence in (
        (tmp_path, "is not empty, it has 'file'"),
        (tmp_path / "file", "cannot be used: File exists"),
        (tmp_path / "file" / "below", "cannot be used: Not a directory"),
    ):
        (tmp_path / "file").write_text("")
        with pytest.raises(ConfigError, match=f"--to: .* {sentence}"):
            tollgate(ledger, "ledger", "export", *PERIOD, "--to", directory)
    with pytest.raises(ConfigError, match="--until: must be later"):
        tollgate(ledger, "ledger", "export", "--since", "2027-01-02", "--until", "2027-01-01", "--to", tmp_path)


def test_a_disk_that_is_full(ledger: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    described, seen = parquet.described, []

    def third(path: Path, rows: int) -> parquet.File:
        seen.append(path.name)
        if len(seen) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return described(path, rows)

    monkeypatch.setattr(export, "BATCH", 7)
    monkeypatch.setattr(export, "FILE_ROWS", 35)
    monkeypatch.setattr(parquet, "described", third)
    with pytest.raises(ConfigError, match="new cannot be written: No space left on device"):
        tollgate(ledger, "ledger", "export", *PERIOD, "--to", tmp_path / "new")
    assert not list((tmp_path / "new").iterdir())


def test_an_export_that_fails_leaves_nothing(tmp_path: Path, database_url: str) -> None:
    with pytest.raises(Unavailable, match="usage_events"):
        tollgate(database_url, "ledger", "export", *PERIOD, "--to", tmp_path / "new")
    assert not list((tmp_path / "new").iterdir())
    asyncio.run(migrate(database_url))
    result = tollgate(database_url, "ledger", "export", *PERIOD, "--to", tmp_path / "new")
    assert result.output == "0 decisions in 0 files, 0 bytes\n"
    assert [path.name for path in (tmp_path / "new").iterdir()] == [MANIFEST]
