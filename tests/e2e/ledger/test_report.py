"""From a name to a decision, and how much was used, by the commands that operators run."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID

import psycopg
import pytest
from click.testing import CliRunner, Result

from ext_authz.db.migrate import migrate, read_migrations
from ext_authz.errors import ConfigError, Unavailable
from ext_authz.ledger.commands import decisions, usage
from tests.services import free_port

START, END = datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC)
TICK = timedelta(milliseconds=1)
ALICE, BOB = "5c0d3c5e-alice", "8f11d0aa-bob"
ROW = """
INSERT INTO usage_events (decision_id, occurred_at, client, model, reason, code, subject, username, facts, issuer,
    token_id, route, model_version, method, path, policy)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, 'https://id.example', '', 'infer', '', 'POST', '/p', '')
"""
OUTCOME = """
INSERT INTO call_outcomes (decision_id, status, grpc_status, flags, details, duration_ms, bytes_in, bytes_out, upstream,
    upstream_address) VALUES (%s, %s, %s, %s, 'd', 12.5, 120, 300, 'triton', '10.0.0.7:8000')
"""
PERIOD = ("--since", "2026-11-01", "--until", "2026-12-01T01:00:00+01:00")

Run = Callable[..., Result]


def id_at(at: datetime, number: int) -> UUID:
    """As the authorizer mints them."""
    return UUID(int=(int(at.timestamp() * 1000) << 80) | (7 << 76) | (2 << 62) | number)


@pytest.fixture
def ledger(database_url: str) -> str:
    asyncio.run(migrate(database_url))
    over = '{"limited_by": "user-minute\\u001fdemo:alice"}'
    rows = (
        (START - TICK, "shop", "sentiment", "allowed", "", ALICE, "alice", None),
        (START, "shop", "sentiment", "allowed", "", ALICE, "alice", None),
        (START + TICK, "shop", "iris", "over_limit", "over_limit", ALICE, "Alice", over),
        (START + 2 * TICK, "shop", "iris", "revoked", "revoked", BOB, "", '{"revoked_by": "session"}'),
        (START + 3 * TICK, "", "", "invalid_credential", "signature_invalid", "", "", '"not a record"'),
        (END - TICK, "shop", "sentiment", "allowed", "", BOB, "=1+1\x1b[2J", None),
        (END - TICK, "bank", "iris", "allowed", "dry_run_over_limit", "alice", "", None),
        (END, "bank", "iris", "allowed", "", BOB, "", None),
    )
    with psycopg.connect(database_url) as connection:
        for number, (at, *rest) in enumerate(rows):
            connection.execute(ROW, (id_at(at, number), at, *rest))
        outcomes = (
            (id_at(START, 1), 504, None, "upstream_request_timeout"),
            (id_at(END - TICK, 5), 200, 0, ""),
            (id_at(END, 99), 200, None, "of no decision"),
        )
        for outcome in outcomes:
            connection.execute(OUTCOME, outcome)
    return database_url


@pytest.fixture
def run(ledger: str) -> Run:
    def run(*words: str, url: str = ledger) -> Result:
        command = decisions if words[0] == "decisions" else usage
        return CliRunner().invoke(command, words[1:], env={"TOLLGATE_DATABASE_URL": url})

    return run


def numbers(result: Result) -> list[int]:
    return [int(row["decision_id"][-4:], 16) for row in json.loads(result.stdout)]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ((), [6, 5, 4, 3, 2, 1]),
        (("--limit", "2"), [6, 5]),
        (("--reason", "refused"), [4, 3, 2]),
        (("--reason", "allowed"), [6, 5, 1]),
        (("--reason", "revoked"), [3]),
        (("--code", "signature_invalid"), [4]),
        (("--client", "bank"), [6]),
        (("--answered", "failed"), [1]),
        (("--answered", "5xx"), [1]),
        (("--answered", "503"), []),
        (("--answered", "ok"), [5]),
        (("--answered", "grpc 0"), [5]),
        (("--answered", "unknown"), [6]),
        (("--answered", "failed", "--user", "alice"), [1]),
        (("--model", "iris", "--reason", "refused"), [3, 2]),
        (("--route", "another"), []),
        (("--user", ALICE), [2, 1]),
        (("--user", "ALICE"), [2, 1]),
        (("--user", "alice"), [6, 2, 1]),
        (("--user", "alice", "--limit", "1"), [6]),
        (("--user", "a' OR '1'='1"), []),
    ],
)
def test_decisions_are_found_by_what_they_are_about(run: Run, words: tuple[str, ...], found: list[int]) -> None:
    assert numbers(run("decisions", *PERIOD, "--format", "json", *words)) == found


def test_a_line_says_who_was_refused_and_why(run: Run) -> None:
    result = run("decisions", *PERIOD, "--reason", "refused")
    head, *lines = result.stdout.splitlines()
    assert head.split() == ["TIME", "DECISION", "ID", "USER", "CLIENT", "ROUTE", "MODEL", "OUTCOME", "ANSWERED", "WHY"]
    assert [line.split()[2:] for line in lines] == [
        ["-", "-", "infer", "-", "refused", "-", "invalid_credential", "signature_invalid"],
        [BOB, "shop", "infer", "iris", "refused", "-", "revoked", "session"],
        ["Alice", "shop", "infer", "iris", "refused", "-", "over_limit", "user-minute"],
    ]
    assert lines[2].startswith(f"2026-11-01T00:00:00.001Z  {id_at(START + TICK, 2)}  Alice")
    assert result.stderr == ""


def test_a_row_says_what_became_of_the_call(run: Run) -> None:
    rows = json.loads(run("decisions", *PERIOD, "--format", "json", "--reason", "allowed").stdout)
    assert [(row["answered"], row["status"], row["grpc_status"], row["duration_ms"]) for row in rows] == [
        (None, None, None, None),
        ("grpc 0", 200, 0, 12.5),
        ("504", 504, None, 12.5),
    ]
    assert rows[2]["flags"] == "upstream_request_timeout"


def test_usage_is_counted_by_what_became_of_the_calls(run: Run) -> None:
    result = run("usage", *PERIOD, "--by", "answered", "--format", "csv")
    assert result.stdout.splitlines()[:4] == [
        "answered,outcome,count",
        ",allowed,1",
        ",invalid_credential,1",
        ",over_limit,1",
    ]
    assert {"504,allowed,1", "grpc 0,allowed,1"} < set(result.stdout.splitlines())


def test_what_is_left_out_is_said(run: Run) -> None:
    some = run("decisions", *PERIOD, "--limit", "1", "--format", "csv")
    assert some.stderr == "there are more than 1: narrow the period, or write --limit\n"
    nothing = run("decisions", "--since", "10m", "--user", "nobody")
    assert nothing.stdout == "none\n"
    assert nothing.stderr.startswith("no such decision from 20")
    assert nothing.stderr.endswith(": the last one in Postgres is of 2026-12-01T00:00:00.000Z\n")


def test_names_are_printed_safely(run: Run) -> None:
    result = run("decisions", *PERIOD, "--client", "shop", "--reason", "allowed", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert [row["username"] for row in rows] == ["'=1+1\\x1b[2J", "alice"]
    assert "\x1b" not in run("decisions", *PERIOD).stdout


def test_usage_is_counted_by_client_model_and_route_in_a_period(run: Run) -> None:
    result = run("usage", *PERIOD, "--client", "shop")
    assert result.stdout.splitlines() == [
        "CLIENT  MODEL      ROUTE  OUTCOME     COUNT",
        "shop    iris       infer  over_limit      1",
        "shop    iris       infer  revoked         1",
        "shop    sentiment  infer  allowed         2",
    ]


def test_usage_is_counted_by_what_is_named(run: Run) -> None:
    by_user = json.loads(run("usage", *PERIOD, "--by", "user", "--reason", "allowed", "--format", "json").stdout)
    assert run("usage", *PERIOD, "--by", "user", "--client", "bank").stdout.splitlines() == [
        "USER   OUTCOME  COUNT",
        "alice  allowed      1",
    ]
    found = [(row["subject"], row["username"], row["outcome"], row["count"]) for row in by_user]
    assert sorted(found) == [
        (ALICE, "alice", "allowed", 1),
        (BOB, "=1+1\x1b[2J", "allowed", 1),
        ("alice", "", "allowed", 1),
    ]
    by_day = run("usage", *PERIOD, "--by", "day", "--by", "client", "--user", "alice", "--format", "csv")
    assert by_day.stdout.splitlines() == [
        "day,client,outcome,count",
        "2026-11-01,shop,allowed,1",
        "2026-11-01,shop,over_limit,1",
        "2026-11-30,bank,allowed,1",
    ]
    assert run("usage", "--since", "10m").stdout == "none\n"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("decisions", "--since", "2026-11-02", "--until", "2026-11-02"), "--until: must be later than --since"),
        (("usage", "--since", "5m", "--until", "10m"), "--until: must be later than --since"),
        (("decisions", "--user", ""), "--user: is empty: leave the option out, or write a value"),
        (("decisions", "--answered", "6xx"), "--answered: is not ok, failed, unknown, none, or a status such as 504"),
        (("decisions", "--code", "flood"), "--code: the ledger has no refusals with flood, to bound its size"),
    ],
)
def test_a_selection_that_is_none_is_one_sentence(run: Run, words: tuple[str, ...], sentence: str) -> None:
    wrong = run(*words).exception
    assert isinstance(wrong, ConfigError)
    assert sentence in str(wrong)


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("decisions", "--reason", "over-limit"), "did you mean over_limit?"),
        (("decisions", "--code", "token_expird"), "there is no 'token_expird': did you mean token_expired?"),
        (("usage", "--code", "nope"), "'nope' is not one of 'algorithm_refused', "),
        (("usage", "--by", "users"), "did you mean user?"),
        (("usage", "--since", "yesterday"), "write 15m (ago), 10:30 (today)"),
    ],
)
def test_a_wrong_word_is_corrected(run: Run, words: tuple[str, ...], hint: str) -> None:
    result = run(*words)
    assert (result.exit_code, hint in result.stderr) == (2, True)


def test_without_postgres_there_is_no_answer(run: Run) -> None:
    url = f"postgresql://127.0.0.1:{free_port()}/none"
    for command in ("decisions", "usage"):
        assert isinstance(run(command, url=url).exception, Unavailable)


@pytest.mark.parametrize("migrations", [0, 6])
def test_a_database_of_an_older_version_asks_for_tollgate_migrate(database_url: str, migrations: int) -> None:
    asyncio.run(migrate(database_url, read_migrations()[:migrations]))
    wrong = CliRunner().invoke(decisions, [], env={"TOLLGATE_DATABASE_URL": database_url}).exception
    assert isinstance(wrong, Unavailable)
    assert "run tollgate migrate" in wrong.detail
