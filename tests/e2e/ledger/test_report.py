"""Who used what, counted over a half-open period."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from click.testing import CliRunner

from ext_authz.db.migrate import migrate
from ext_authz.db.postgres import connect
from ext_authz.errors import ConfigError, Unavailable
from ext_authz.ledger.commands import usage
from ext_authz.ledger.queries import Usage, usage_by_client
from tests.services import free_port

START, END = datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC)
TICK = timedelta(microseconds=1)
ROW = """
INSERT INTO usage_events (decision_id, occurred_at, client, model, reason, issuer, subject, token_id, route,
    model_version, method, path, code, policy)
VALUES (gen_random_uuid(), %s, %s, %s, %s, '', '', '', 'infer', '', '', '', '', '')
"""


@pytest.fixture
def ledger(database_url: str) -> str:
    asyncio.run(migrate(database_url))
    with psycopg.connect(database_url) as connection:
        for moment, client, model, reason in (
            (START - TICK, "shop", "sentiment", "allowed"),
            (START, "shop", "sentiment", "allowed"),
            (START, "shop", "iris", "over_limit"),
            (END - TICK, "shop", "sentiment", "allowed"),
            (END - TICK, "bank", "iris", "allowed"),
            (END, "bank", "iris", "allowed"),
        ):
            connection.execute(ROW, (moment, client, model, reason))
    return database_url


def test_a_period_has_its_start_and_not_its_end(ledger: str) -> None:
    async def report(client: str | None = None) -> list[Usage]:
        async with await connect(ledger) as connection:
            return await usage_by_client(connection, START, END, client)

    assert asyncio.run(report()) == [
        Usage("bank", "iris", "infer", "allowed", 1),
        Usage("shop", "iris", "infer", "over_limit", 1),
        Usage("shop", "sentiment", "infer", "allowed", 2),
    ]
    assert asyncio.run(report("bank")) == [Usage("bank", "iris", "infer", "allowed", 1)]
    assert asyncio.run(report("nobody")) == []


def test_the_command_prints_the_same(ledger: str) -> None:
    environ = {"TOLLGATE_DATABASE_URL": ledger, "TOLLGATE_REDIS_URL": "redis://unused"}
    words = ["--since", "2026-11-01", "--until", "2026-12-01T00:00:00+00:00", "--client", "shop"]
    result = CliRunner().invoke(usage, words, env=environ)
    assert result.output.splitlines()[1:] == [
        "shop    iris       infer  over_limit      1",
        "shop    sentiment  infer  allowed         2",
        "total                                     3",
    ]


@pytest.mark.parametrize("words", [["--since", "yesterday"], ["--since", "2026-11-02", "--until", "2026-11-02"]])
def test_a_period_that_is_none_is_one_sentence(words: list[str]) -> None:
    result = CliRunner().invoke(usage, words)
    assert isinstance(result.exception, ConfigError)


def test_without_postgres_there_is_no_report() -> None:
    environ = {
        "TOLLGATE_DATABASE_URL": f"postgresql://127.0.0.1:{free_port()}/none",
        "TOLLGATE_REDIS_URL": "redis://unused",
    }
    assert isinstance(CliRunner().invoke(usage, [], env=environ).exception, Unavailable)
