"""Every command that asks Postgres, over a Postgres in every state: one sentence, an exit code, never a stack trace."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psycopg
import pytest

from ext_authz import cli
from ext_authz.db.migrate import migrate
from tests.postgres_roles import as_role, name_in, role
from tests.services import free_port

POLICY = """
version: 1
issuers:
  - {name: kc, issuer: "https://kc.example/realms/ml", audiences: [gateway]}
routes:
  - {name: live, path: /v2/health/live, methods: [GET], public: true}
"""
ID = "01a1f90a-d880-7541-a59b-f814841f8b40"
READ_LEDGER = (
    ("usage",),
    ("usage", "export"),
    ("explain", ID),
    ("policy", "diff", "POLICY", "POLICY", "--replay", "postgresql"),
)
REVOCATIONS = (
    ("revocations", "list"),
    ("revocations", "lift", "user", "alice", "--issuer", "kc"),
    ("revoke", "user", "alice", "--issuer", "kc"),
)
ALL = (*READ_LEDGER, *REVOCATIONS)

Tollgate = Callable[[Sequence[str], str], tuple[int, str]]
"""Runs a command over a database; its exit code and all that it says."""


@pytest.fixture
def tollgate(
    tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Tollgate:
    policy = tmp_path / "policy.yaml"
    policy.write_text(POLICY)
    monkeypatch.setenv("TOLLGATE_POLICY", str(policy))
    monkeypatch.setenv("TOLLGATE_REDIS_URL", redis_url)

    def run(command: Sequence[str], database_url: str) -> tuple[int, str]:
        monkeypatch.setenv("TOLLGATE_DATABASE_URL", database_url)
        monkeypatch.setattr(sys, "argv", ["tollgate", *(str(policy) if word == "POLICY" else word for word in command)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        said = capsys.readouterr()
        return int(end.value.code or 0), said.out.removeprefix("no difference\n") + said.err

    return run


@pytest.fixture
def unprivileged(database_url: str) -> Iterator[str]:
    """A role without any right on tables that are there."""
    asyncio.run(migrate(database_url))
    with role(database_url) as url:
        yield url


def named(command: Sequence[str]) -> str:
    return " ".join(command[:2])


def failed(command: Sequence[str]) -> int:
    """The exit code: a script that revokes or lifts must know that Postgres did not confirm it."""
    return 4 if "revoke" in command or "lift" in command else 1


@pytest.mark.parametrize("command", ALL, ids=named)
def test_a_database_that_is_away(tollgate: Tollgate, command: Sequence[str]) -> None:
    code, said = tollgate(command, f"postgresql://u:hunter2@127.0.0.1:{free_port()}/d")
    assert code == failed(command)
    assert said.count("\n") == 1
    assert "Connection refused" in said
    assert "hunter2" not in said


@pytest.mark.parametrize("command", ALL, ids=named)
def test_a_database_without_tables(tollgate: Tollgate, database_url: str, command: Sequence[str]) -> None:
    code, said = tollgate(command, database_url)
    assert code == failed(command)
    assert said.count("\n") == 1
    assert "run tollgate migrate" in said


@pytest.mark.parametrize("command", READ_LEDGER, ids=named)
def test_a_role_that_may_not_read_the_ledger(tollgate: Tollgate, unprivileged: str, command: Sequence[str]) -> None:
    grant = f"GRANT SELECT ON usage_events TO {name_in(unprivileged)}"
    expected = f"tollgate: postgres cannot be used: the role may not SELECT in usage_events: {grant}\n"
    assert tollgate(command, unprivileged) == (1, expected)


@pytest.mark.parametrize("command", REVOCATIONS, ids=named)
def test_a_role_that_may_not_touch_revocations(tollgate: Tollgate, unprivileged: str, command: Sequence[str]) -> None:
    code, said = tollgate(command, unprivileged)
    assert code == failed(command)
    assert said.count("\n") == 1
    assert "permission denied for table revocations: grant it to the role of TOLLGATE_DATABASE_URL" in said


def test_tables_in_another_schema(tollgate: Tollgate, database_url: str) -> None:
    asyncio.run(migrate(database_url))
    with psycopg.connect(database_url, autocommit=True) as admin:
        admin.execute("CREATE SCHEMA other")
    code, said = tollgate(["usage"], as_role(database_url, "postgres", search_path="other"))
    assert code == 1
    assert said.endswith(
        "its tables are in the schema public, which search_path does not name: "
        "ALTER ROLE postgres SET search_path = public\n"
    )


def test_a_schema_that_the_role_may_not_use(tollgate: Tollgate, unprivileged: str, database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as admin:
        admin.execute("REVOKE USAGE ON SCHEMA public FROM PUBLIC")
    code, said = tollgate(["usage"], unprivileged)
    assert code == 1
    assert said.endswith(
        f"the role may not use the schema of its tables: GRANT USAGE ON SCHEMA public TO {name_in(unprivileged)}\n"
    )


def test_tables_of_an_older_version(tollgate: Tollgate, database_url: str) -> None:
    asyncio.run(migrate(database_url))
    with psycopg.connect(database_url, autocommit=True) as admin:
        admin.execute("ALTER TABLE usage_events DROP COLUMN degraded")
    code, said = tollgate(["usage", "export"], database_url)
    expected = "tollgate: postgres cannot be used: its tables are of an older Tollgate: run tollgate migrate\n"
    assert (code, said) == (1, expected)


@pytest.mark.parametrize(
    "setting", [{"datestyle": "German"}, {"client_encoding": "LATIN1"}, {"timezone": "Asia/Tokyo"}]
)
def test_whatever_a_role_has_set(tollgate: Tollgate, database_url: str, setting: dict[str, str]) -> None:
    asyncio.run(migrate(database_url))
    url = as_role(database_url, "postgres", **setting)
    assert tollgate(("revoke", "user", "é", "--issuer", "kc"), url)[0] == 0
    with psycopg.connect(database_url, autocommit=True) as admin:
        admin.execute("INSERT INTO usage_rejects (stream, entry_id, raw, reason) VALUES ('s', '1-1', '', 'é')")
    code, said = tollgate(("revocations", "list"), url)
    assert (code, "  user  é      kc  " in said) == (0, True)
    code, said = tollgate(("usage", "rejects"), url)
    assert (code, said.endswith("  s       1-1       é\n")) == (0, True)


def test_an_argument_that_is_no_text(tollgate: Tollgate, database_url: str) -> None:
    assert tollgate(["usage", "--client", "\udcff"], database_url) == (2, "tollgate: argument 3 is not UTF-8\n")
