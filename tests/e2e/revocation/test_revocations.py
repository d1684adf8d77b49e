"""`tollgate revocations`, who does it, and the stores that do not hold it."""

from __future__ import annotations

import getpass
import json
import socket
from pathlib import Path
from typing import Any

import psycopg
import pytest
from redis import Redis

from ext_authz.errors import ConfigError, Unavailable
from tests.e2e.revocation.operator import LIFTED, Ledger, Tollgate, held
from tests.services import free_port


def rows(tollgate: Tollgate, *words: str) -> list[dict[str, Any]]:
    """Of `tollgate revocations ...`."""
    found: list[dict[str, Any]] = json.loads(tollgate("revocations", *words, "--format", "json").stdout)
    return found


def test_force_accepts_an_unknown_issuer_and_a_lift_needs_no_known_one(
    tollgate: Tollgate, environ: dict[str, str | None], tmp_path: Path
) -> None:
    assert tollgate("revoke", "user", "sub", "--issuer", "deno", "--force").exit_code == 0
    assert tollgate("revocations", "lift", "user", "sub", "--issuer", "deno").exit_code == 0
    (tmp_path / "policy.yaml").write_text("broken")
    assert isinstance(tollgate("revoke", "user", "sub", "--issuer", "demo").exception, ConfigError)
    assert tollgate("revoke", "user", "sub", "--issuer", "demo", "--force").exit_code == 0


def test_the_actor_is_the_user_who_is_logged_in_unless_given(tollgate: Tollgate) -> None:
    tollgate("revoke", "user", "one", "--issuer", "demo")
    tollgate("revoke", "user", "two", "--issuer", "demo", "--by", "the night shift")
    newest, oldest = rows(tollgate, "list")
    assert (newest["by"], oldest["by"]) == ("the night shift", f"{getpass.getuser()}@{socket.gethostname()}")


def test_revoking_again_prints_who_was_first_and_keeps_both(tollgate: Tollgate) -> None:
    tollgate("revoke", "user", "sub", "--issuer", "demo", "--by", "alice", "--reason", "left the company")
    again = tollgate("revoke", "user", "sub", "--issuer", "demo", "--by", "bob", "--reason", "laptop stolen")
    assert " by alice: left the company; that stays, this is in the history" in again.stdout
    _, line = tollgate("revocations", "list").stdout.splitlines()
    assert line.endswith("  alice  left the company")
    changes = rows(tollgate, "history", "sub")
    assert [(each["change"], each["actor"], each["role"], each["reason"]) for each in changes] == [
        ("revoked", "alice", "postgres", "left the company"),
        ("revoked again", "bob", "postgres", "laptop stolen"),
    ]
    assert {(each["kind"], each["value"], each["issuer"]) for each in changes} == {("user", "sub", "demo")}
    assert all(each["not_before"].startswith("20") for each in changes)


def test_a_lifted_revocation_is_out_of_force_and_shows_its_actor(tollgate: Tollgate, redis_url: str) -> None:
    tollgate("revoke", "token", "jti", "--issuer", "demo", "--by", "alice", "--reason", "lost")
    result = tollgate("revocations", "lift", "token", "jti", "--issuer", "demo", "--by", "bob", "--reason", "found")
    assert (result.exit_code, result.stdout.splitlines()[0]) == (0, f"token jti of demo: {LIFTED}")
    assert result.stdout.splitlines()[1].endswith("by alice: lost")
    assert held(redis_url, "t:demo:jti") is None
    assert tollgate("revocations", "list").stdout == "none\n"
    again = tollgate("revocations", "lift", "token", "jti", "--issuer", "demo")
    assert (again.exit_code, again.stdout) == (1, "token jti of demo: no such revocation is in force\n")
    last = rows(tollgate, "history", "jti")[-1]
    assert [last[name] for name in ("change", "kind", "value", "actor", "reason")] == [
        *("lifted", "token", "jti", "bob", "found"),
    ]


def test_an_issuer_is_lifted_by_its_name(tollgate: Tollgate) -> None:
    for words in (("demo",), ("--issuer", "demo")):
        tollgate("revoke", "issuer", "demo")
        assert tollgate("revocations", "lift", "issuer", *words).exit_code == 0
    assert len(rows(tollgate, "history", "demo")) == 4


def test_the_list_is_filtered_and_paged(tollgate: Tollgate, ledger: Ledger) -> None:
    ledger.call()
    for number in range(5):
        tollgate("revoke", "session", f"sid-{number}", "--issuer", "other")
    tollgate("revoke", "user", "sub-1", "--issuer", "demo")

    def listed(*words: str) -> list[str]:
        return [each["id"] for each in rows(tollgate, "list", *words)]

    everything = ["u:demo:sub-1", *(f"s:other:sid-{number}" for number in (4, 3, 2, 1, 0))]
    assert listed() == listed("--since", "1h") == listed("--since", "2020-01-01") == everything
    assert listed("--since", "2999-01-01T00:00:00Z") == []
    assert listed("--kind", "user") == listed("--user", "sub-1") == listed("--user", "ALICE") == everything[:1]
    assert listed("--issuer", "other") == everything[1:]
    assert listed("--limit", "2", "--after", "s:other:sid-4") == ["s:other:sid-3", "s:other:sid-2"]

    first = tollgate("revocations", "list", "--limit", "4")
    assert (len(first.stdout.splitlines()), first.stderr) == (5, "there are more: --after s:other:sid-2\n")
    last = rows(tollgate, "list", "--limit", "4", "--after", "s:other:sid-2")
    assert len(last) == 2
    assert last[0].keys() == {
        *("id", "kind", "issuer", "value", "revoked_at", "not_before", "expires_at", "by", "reason"),
    }


def test_history_is_there_for_machines_too_and_shows_what_was_before(tollgate: Tollgate) -> None:
    tollgate("revoke", "token", "jti", "--issuer", "demo", "--expires-in", "1d")
    tollgate("revoke", "token", "jti", "--issuer", "demo", "--expires-in", "2d")
    tollgate("revoke", "token", "other", "--issuer", "demo")
    first, second = rows(tollgate, "history", "jti")
    assert (first["change"], second["change"]) == ("revoked", "revoked again")
    assert first["expires_at_then"] is None
    assert second["expires_at_then"] == first["expires_at"] < second["expires_at"]
    assert len(rows(tollgate, "history")) == 3
    assert len(rows(tollgate, "history", "--limit", "1")) == 1
    assert tollgate("revocations", "history", "jti", "--kind", "user").stdout == "none\n"
    assert tollgate("revocations", "history", "jti", "--format", "csv").stdout.splitlines()[0].startswith("at,change,")


def test_what_was_written_by_hand_moves_no_cursor(tollgate: Tollgate, database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO revocations (kind, issuer, value, reason) VALUES ('token', 'demo', 'jti', %s)", ["a\x1b[2J\nb"]
        )
    for words in (("list",), ("history", "jti")):
        _, line = tollgate("revocations", *words).stdout.splitlines()
        assert "a\\x1b[2J\\nb" in line


@pytest.mark.parametrize("duration", ["0d", "30", "-1d", "1w", "1.5h", "3651d", "99999999d"])
def test_a_lifetime_needs_a_unit(tollgate: Tollgate, duration: str) -> None:
    result = tollgate("revoke", "user", "sub", "--issuer", "demo", "--expires-in", duration)
    assert result.exit_code == 2
    assert "like 90s, 15m, 12h or 30d" in result.output


def test_a_redis_that_no_authorizer_keeps_is_named(tollgate: Tollgate, redis_url: str) -> None:
    with Redis.from_url(redis_url) as redis:
        redis.delete("{tg0}:complete")
    result = tollgate("revoke", "user", "sub", "--issuer", "demo")
    assert result.exit_code == 0
    assert "warning: this redis is not known to hold every revocation" in result.stderr


def test_every_shard_that_authorizers_keep_gets_it_whatever_the_settings_say(
    tollgate: Tollgate, redis_url: str
) -> None:
    with Redis.from_url(redis_url) as redis:
        redis.set("{tg1}:complete", "run id")
        tollgate("revoke", "user", "sub", "--issuer", "demo")
        assert redis.get("{tg1}:r:u:demo:sub")
        assert not redis.exists("{tg2}:r:u:demo:sub")


def test_a_store_that_does_not_hold_it_is_named(tollgate: Tollgate, environ: dict[str, str | None]) -> None:
    working, environ["TOLLGATE_REDIS_URL"] = environ["TOLLGATE_REDIS_URL"], f"redis://127.0.0.1:{free_port()}/0"
    without_redis = tollgate("revoke", "user", "sub", "--issuer", "demo")
    assert without_redis.exit_code == 3
    assert without_redis.stdout.startswith("user sub of demo: postgres holds it, redis does not (")
    lifted = tollgate("revocations", "lift", "user", "sub", "--issuer", "demo")
    assert (lifted.exit_code, "postgres holds it, redis does not (" in lifted.stdout) == (3, True)
    assert "checks still refuse it, until an authorizer reaches redis" in lifted.stdout

    environ["TOLLGATE_REDIS_URL"], environ["TOLLGATE_DATABASE_URL"] = (
        working,
        f"postgresql://127.0.0.1:{free_port()}/none",
    )
    for words in (("revoke", "user", "sub"), ("revocations", "lift", "user", "sub")):
        without_postgres = tollgate(*words, "--issuer", "demo")
        assert without_postgres.exit_code == 4
        assert "postgres did not confirm it" in without_postgres.stdout
    by_name = tollgate("revoke", "user", "--username", "alice")
    assert (by_name.exit_code, by_name.stderr.startswith("nothing was done: postgres does not answer")) == (4, True)
    assert isinstance(tollgate("revocations", "list").exception, Unavailable)
