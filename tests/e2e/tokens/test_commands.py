from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner, Result
from redis import Redis

from ext_authz.cli import cli
from ext_authz.db import redis_keys
from ext_authz.db.migrate import migrate
from ext_authz.errors import ConfigError, TollgateError
from tests.e2e.tokens.world import KEY, OTHER_KEY, POLICY, claims_of

Tollgate = Callable[..., Result]


@pytest.fixture
def environ(database_url: str, redis_url: str, tmp_path: Path) -> dict[str, str | None]:
    asyncio.run(migrate(database_url))
    (tmp_path / "policy.yaml").write_text(POLICY)
    return {
        "TOLLGATE_DATABASE_URL": database_url,
        "TOLLGATE_REDIS_URL": redis_url,
        "TOLLGATE_POLICY": str(tmp_path / "policy.yaml"),
        "TOLLGATE_CONSOLE_KEYS": KEY,
    }


@pytest.fixture
def tollgate(environ: dict[str, str | None]) -> Tollgate:
    def run(*words: str, fails: type[Exception] | None = None, **more: str) -> Result:
        result = CliRunner().invoke(cli, words, env={**environ, **more})
        assert type(result.exception) is (fails or type(None)), result.output
        return result

    return run


def test_a_service_account_from_first_to_last(tollgate: Tollgate, redis_url: str) -> None:
    account = tollgate("tokens", "create-account", "nightly", "--group", "/ops", "--role", "infer").stdout.strip()
    assert account == "service:nightly"
    made = tollgate("tokens", "create", "batch", "--service", account, "--lifetime", "1d", "--model", "small")
    token, claims = made.stdout.strip(), claims_of(made.stdout.strip())
    assert made.stdout == f"{token}\n"
    assert (claims["sub"], claims["tollgate"]["models"]) == (account, ["small"])
    grant = claims["sid"]
    assert made.stderr.startswith(f"{grant}: batch, until ")

    (listed,) = json.loads(tollgate("tokens", "list", "--format", "json").stdout)
    assert (listed["id"], listed["state"], listed["roles"], listed["group"]) == (grant, "active", None, "/ops")
    assert "batch  service:nightly  active" in tollgate("tokens", "list", "--search", "bat").stdout
    renewed = json.loads(tollgate("tokens", "renew", grant, "--grace", "1h", "--format", "json").stdout)
    assert claims_of(renewed["token"])["sid"] == renewed["grant"]["id"] == grant
    shown = json.loads(tollgate("tokens", "show", grant, "--format", "json").stdout)
    assert shown == renewed["grant"]
    text = tollgate("tokens", "show", grant).stdout
    assert "models: small\n" in text
    assert claims["jti"] in text

    gone = tollgate("tokens", "revoke", grant, "--reason", "left", "--by", "olga")
    assert gone.stdout == f"{grant}: revoked, in force on every replica\n"
    with Redis.from_url(redis_url) as redis:
        assert redis.get(redis_keys.revocation(f"s:kc:{grant}"))
    assert tollgate("tokens", "list", "--state", "active").stdout == "none\n"
    tollgate("tokens", "create", "again", "--service", account)
    assert tollgate("tokens", "revoke-all", account, "--issuer", "kc").stdout.startswith("1 revoked")
    assert "service:nightly" in tollgate("tokens", "accounts").stdout

    entries = json.loads(tollgate("audit", "list", "--format", "json", "--object", f"grant:{grant}").stdout)
    assert [entry["action"] for entry in entries] == ["grant.revoked", "grant.renewed", "grant.created"]
    assert (entries[0]["actor"], entries[0]["via"], entries[0]["details"]["reason"]) == ("olga", "cli", "left")


def test_what_is_wrong_is_one_sentence(tollgate: Tollgate) -> None:
    wrong = tollgate("tokens", "create", "x", "--service", "service:none", fails=TollgateError)
    assert str(wrong.exception) == "there is no such thing, or it is not yours"
    tollgate("tokens", "create-account", "a", "--group", "/ops")
    wrong = tollgate("tokens", "create", "x", "--service", "service:a", "--role", "boss", fails=ConfigError)
    assert str(wrong.exception).startswith("--role: these roles are more than you may give: boss")
    wrong = tollgate("tokens", "list", "--after", "zzz", fails=ConfigError)
    assert str(wrong.exception).startswith("cursor: this is no cursor of this list")
    wrong = tollgate("tokens", "list", fails=ConfigError, TOLLGATE_CONSOLE_KEYS="c2hvcnQ=")
    assert "c2hvcnQ=" not in str(wrong.exception)
    assert "TOLLGATE_CONSOLE_KEYS: each key is the base64 of 32 bytes" in str(wrong.exception)


WIDER = [
    (["--role", "boss"], "--role: these roles are more than you may give: boss"),
    (["--scope", "admin"], "--scope: these scopes are more than you may give: admin"),
    (["--model", "small", "--model", "large"], "--model: these models are more than you may give: large"),
    (["--model", "lab-1"], "--model: these models are more than you may give: lab-1"),
    (["--model", "*"], "--model: these models are more than you may give: *"),
    (["--lifetime", "31d"], "lifetime"),
]


@pytest.mark.parametrize(("options", "said"), WIDER)
def test_no_command_gives_a_token_more_than_its_owner_has(
    tollgate: Tollgate, database_url: str, options: list[str], said: str
) -> None:
    """Though whoever runs it is an administrator."""
    tollgate("tokens", "create-account", "a", "--group", "/ops", "--role", "infer")
    made = claims_of(tollgate("tokens", "create", "x", "--service", "service:a", "--model", "small").stdout.strip())
    before = _rows(database_url)
    wrong = tollgate("tokens", "create", "wide", "--service", "service:a", *options, fails=ConfigError)
    assert said in str(wrong.exception)
    assert "tgl_" not in wrong.output
    if "--lifetime" in options:
        wrong = tollgate("tokens", "renew", made["sid"], *options, fails=ConfigError)
        assert said in str(wrong.exception)
    assert _rows(database_url) == before


def test_no_command_gives_a_token_of_a_person(tollgate: Tollgate, database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute("INSERT INTO owners (issuer, subject, roles) VALUES ('kc', 'alice', '{boss}')")
    wrong = tollgate("tokens", "create", "x", "--service", "alice", fails=TollgateError)
    assert "only its owner gets a token of a person" in str(wrong.exception)
    assert _rows(database_url) == []


def _rows(database_url: str) -> list[tuple[object, ...]]:
    with psycopg.connect(database_url) as connection:
        return connection.execute("SELECT jti, expires_at, ends_at FROM tokens ORDER BY jti").fetchall()


def test_without_redis_the_exit_code_says_what_holds_it(tollgate: Tollgate) -> None:
    tollgate("tokens", "create-account", "a", "--group", "/ops")
    grant = claims_of(tollgate("tokens", "create", "x", "--service", "service:a").stdout.strip())["sid"]
    half = tollgate("tokens", "revoke", grant, fails=SystemExit, TOLLGATE_REDIS_URL="redis://127.0.0.1:1/0")
    assert half.exit_code == 3
    assert "postgres holds it, redis does not" in half.stderr
    assert f"{grant}: revoked" in tollgate("tokens", "revoke", grant).stdout
    none = tollgate("tokens", "list", fails=SystemExit, TOLLGATE_DATABASE_URL="postgresql://u:geheim@127.0.0.1:1/x")
    assert none.exit_code == 4
    assert "geheim" not in none.output


def test_keys_are_rotated_withdrawn_and_encrypted_again(tollgate: Tollgate) -> None:
    tollgate("tokens", "create-account", "a", "--group", "/ops")
    tollgate("tokens", "create", "x", "--service", "service:a")
    (first,) = json.loads(tollgate("tokens", "keys", "list", "--format", "json").stdout)
    following = tollgate("tokens", "keys", "rotate").stdout.strip()
    listed = json.loads(tollgate("tokens", "keys", "list", "--format", "json").stdout)
    assert [(key["kid"], key["state"]) for key in listed] == [(following, "next"), (first["kid"], "signs")]
    both = f"{OTHER_KEY},{KEY}"
    assert tollgate("tokens", "keys", "reencrypt", TOLLGATE_CONSOLE_KEYS=both).stdout == "2 encrypted again\n"
    gone = tollgate("tokens", "keys", "withdraw", first["kid"], TOLLGATE_CONSOLE_KEYS=OTHER_KEY)
    assert gone.stdout.startswith(f"{first['kid']}: withdrawn")
    listed = json.loads(tollgate("tokens", "keys", "list", "--format", "json").stdout)
    assert sorted(key["state"] for key in listed) == ["published", "signs", "withdrawn"]


def test_the_audit_log_is_verified_from_outside(tollgate: Tollgate, database_url: str) -> None:
    tollgate("tokens", "create-account", "a", "--group", "/ops")
    tollgate("revoke", "token", "j1")
    tollgate("revocations", "lift", "token", "j1")
    head = tollgate("audit", "verify").stdout.strip()
    assert head.startswith("3:")
    assert tollgate("audit", "verify", "--head", head).stdout.strip() == head
    listed = tollgate("audit", "list", "--limit", "2")
    assert listed.stderr == "there are more: --before 2\n"
    rest = json.loads(tollgate("audit", "list", "--before", "2", "--format", "json").stdout)
    assert [(entry["action"], entry["via"]) for entry in rest] == [("service_account.created", "cli")]
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute("DELETE FROM audit_log WHERE position = 3")
    tollgate("audit", "verify")
    broken = tollgate("audit", "verify", "--head", head, fails=SystemExit)
    assert (broken.exit_code, broken.stdout) == (1, "")
    assert broken.stderr.startswith("position 3: entries that were there are missing at the end; good up to 2:")
    wrong = tollgate("audit", "verify", "--head", "3", fails=SystemExit)
    assert (wrong.exit_code, "write POSITION:HASH" in wrong.stderr) == (2, True)


def test_of_several_processes_at_once_only_so_many_make_a_token(
    tollgate: Tollgate, environ: dict[str, str | None]
) -> None:
    tollgate("tokens", "create-account", "a", "--group", "/ops")
    command = [sys.executable, "-m", "ext_authz", "tokens", "create", "--service", "service:a"]
    clean = {name: value for name, value in {**os.environ, **environ}.items() if value is not None}
    started = [
        subprocess.Popen([*command, f"n{each}"], env=clean, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for each in range(4)
    ]
    answers = [process.communicate(timeout=60) for process in started]
    assert sorted(process.returncode for process in started) == [0, 0, 0, 1]
    (refused,) = (error for token, error in answers if not token)
    assert b"3 tokens are as many as an owner may have" in refused
