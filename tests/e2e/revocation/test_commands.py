"""`tollgate revoke` and `tollgate revocations`, as an operator types them."""

from __future__ import annotations

import asyncio
import getpass
import json
import socket
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import jwt
import psycopg
import pytest
from click.testing import CliRunner, Result
from msgspec import Raw
from redis import Redis

from ext_authz.db.migrate import migrate
from ext_authz.errors import ConfigError, TollgateError, Unavailable
from ext_authz.ledger.event import COLUMNS, DecisionRecord, Event, encode
from ext_authz.ledger.stream import Row, StreamEntry, parse
from ext_authz.revocation.commands import revocations, revoke
from tests.services import free_port

Tollgate = Callable[..., Result]

ISS = "https://idp.example/realms/demo"
POLICY = f"""
version: 1
issuers:
  - {{name: demo, issuer: "{ISS}", jwks_url: "https://idp.example/certs", audiences: [models]}}
  - {{name: other, issuer: "https://other.example", jwks_url: "https://other.example/certs", audiences: [models]}}
routes:
  - {{name: live, path: /v2/health/live, methods: [GET], public: true}}
"""
HELD = "in force on every replica: postgres and redis hold it"
LIFTED = "lifted on every replica: postgres and redis hold it"


@pytest.fixture
def environ(database_url: str, redis_url: str, tmp_path: Path) -> dict[str, str | None]:
    """A policy is at hand."""
    asyncio.run(migrate(database_url))
    (tmp_path / "policy.yaml").write_text(POLICY)
    with Redis.from_url(redis_url) as redis:
        redis.set("{tg0}:complete", redis.info("server")["run_id"])
    return {
        "TOLLGATE_DATABASE_URL": database_url,
        "TOLLGATE_REDIS_URL": redis_url,
        "TOLLGATE_POLICY": str(tmp_path / "policy.yaml"),
    }


@pytest.fixture
def tollgate(environ: dict[str, str | None]) -> Tollgate:
    def run(*words: str, stdin: str = "") -> Result:
        command = {"revoke": revoke, "revocations": revocations}[words[0]]
        return CliRunner().invoke(command, words[1:], env=environ, input=stdin)

    return run


class Ledger:
    """Decisions of the past."""

    def __init__(self, database_url: str) -> None:
        self._url = database_url

    def call(
        self,
        token: str = "jti-1",
        *,
        subject: str = "sub-1",
        username: str = "alice",
        session: str = "sid-1",
        client: str = "web-app",
        age: timedelta = timedelta(minutes=2, seconds=5),
    ) -> str:
        """Put one into the ledger; its id."""
        known = DecisionRecord(issuer_name="demo", session=session, username=username)
        event = Event(
            decision_id=str(uuid.uuid4()),
            issuer=ISS,
            subject=subject,
            client=client,
            token_id=token,
            record=Raw(encode(known)),
        )
        self._write(event, datetime.now(UTC) - age)
        return event.decision_id

    def _write(self, event: Event, at: datetime) -> None:
        line = parse(StreamEntry(f"{at.timestamp() * 1000:.0f}-0", {b"e": encode(event), b"o": b"0"}))
        assert isinstance(line, Row)
        names, marks = ", ".join(COLUMNS), ", ".join(["%s"] * len(COLUMNS))
        row = (*line.cells[:-2], at, line.cells[-1])
        with psycopg.connect(self._url, autocommit=True) as connection:
            connection.execute(f"INSERT INTO usage_events ({names}) VALUES ({marks})", row)


@pytest.fixture
def ledger(environ: dict[str, str | None], database_url: str) -> Ledger:
    return Ledger(database_url)


def held(redis_url: str, entry_id: str) -> bytes | None:
    with Redis.from_url(redis_url) as redis:
        value = redis.get(f"{{tg0}}:r:{entry_id}")
        return value if isinstance(value, bytes) and not value.startswith(b"-") else None


@pytest.mark.parametrize(
    ("words", "entry_id", "target"),
    [
        (("token", "jti", "--issuer", "demo"), "t:demo:jti", "token jti of demo"),
        (("session", "sid", "--issuer", "demo"), "s:demo:sid", "session sid of demo"),
        (("user", "sub", "--issuer", "demo", "--reason", "left"), "u:demo:sub", "user sub of demo"),
        (("client", "azp", "--issuer", "demo", "--expires-in", "90m"), "c:demo:azp", "client azp of demo"),
        (("issuer", "demo"), "i:demo:", "issuer demo"),
    ],
)
def test_everything_that_can_be_revoked_is_in_force_when_the_command_ends(
    tollgate: Tollgate, redis_url: str, words: tuple[str, ...], entry_id: str, target: str
) -> None:
    result = tollgate("revoke", *words)
    assert (result.exit_code, result.stdout) == (0, f"{target}: {HELD}\n")
    assert held(redis_url, entry_id)


@pytest.mark.parametrize(
    ("words", "tokens"),
    [
        (("token", "jti-1"), "1 token"),
        (("session", "sid-1"), "2 tokens"),
        (("user", "sub-1"), "3 tokens"),
        (("client", "web-app"), "3 tokens"),
        (("issuer", "demo"), "4 tokens"),
    ],
)
def test_what_was_hit_is_told(tollgate: Tollgate, ledger: Ledger, words: tuple[str, str], tokens: str) -> None:
    ledger.call("jti-2", subject="sub-2", username="bob", session="", client="batch", age=timedelta(hours=3))
    ledger.call("jti-3", session="sid-3", age=timedelta(hours=1))
    ledger.call("jti-4")
    ledger.call("jti-1")
    issuer = () if words[0] == "issuer" else ("--issuer", "demo")
    result = tollgate("revoke", *words, *issuer)
    assert (
        result.stdout.splitlines()[1] == f"  hits {tokens} seen in the last 24 hours, last 2 min ago by client web-app"
    )
    assert result.stderr == ""


def test_a_subject_that_nobody_has_is_in_force_with_a_warning(tollgate: Tollgate, ledger: Ledger) -> None:
    ledger.call()
    of_nobody = tollgate("revoke", "user", "mallory", "--issuer", "demo")
    assert (of_nobody.exit_code, of_nobody.stdout) == (0, f"user mallory of demo: {HELD}\n")
    assert of_nobody.stderr == (
        "warning: in force, but no token with this subject was seen here in the last 7 days: "
        "did you mean the username? use --username\n"
    )
    a_name = tollgate("revoke", "user", "alice", "--issuer", "demo")
    assert a_name.stderr.endswith(": alice is the name of sub-1: tollgate revoke user --username alice\n")
    session = tollgate("revoke", "session", "nobody's", "--issuer", "demo")
    assert session.stderr == "warning: in force, but no token of this session was seen here in the last 7 days\n"


def test_what_was_seen_long_ago_is_told_as_that(tollgate: Tollgate, ledger: Ledger) -> None:
    ledger.call(age=timedelta(days=3, hours=1))
    result = tollgate("revoke", "user", "sub-1", "--issuer", "demo")
    assert "hits no token that was seen in the last 24 hours; the last one was seen 3 d ago" in result.stdout


def test_decisions_on_their_way_to_the_ledger_are_told(tollgate: Tollgate, redis_url: str) -> None:
    with Redis.from_url(redis_url) as redis:
        redis.xadd("{tg0}:events", {"e": "{}", "o": 0})
    result = tollgate("revoke", "user", "sub-1", "--issuer", "demo")
    assert "in the last 7 days (1 decisions are not in the ledger yet): did you mean" in result.stderr


def test_a_user_is_revoked_by_name(tollgate: Tollgate, ledger: Ledger, redis_url: str) -> None:
    ledger.call()
    result = tollgate("revoke", "user", "--username", "Alice", "--reason", "left")
    assert (result.exit_code, result.stdout.splitlines()[0]) == (0, f"user sub-1 of demo: {HELD}")
    assert held(redis_url, "u:demo:sub-1")
    assert tollgate("revocations", "lift", "user", "--username", "alice").exit_code == 0
    assert held(redis_url, "u:demo:sub-1") is None


def test_a_name_of_several_or_of_nobody_revokes_nobody(tollgate: Tollgate, ledger: Ledger) -> None:
    ledger.call("a", subject="sub-1")
    ledger.call("b", subject="sub-2")
    several = tollgate("revoke", "user", "--username", "alice").exception
    assert isinstance(several, ConfigError)
    assert "2 users go by the name 'alice'" in str(several)
    assert "tollgate revoke user sub-2 --issuer demo" in str(several)
    nobody = tollgate("revoke", "user", "--username", "bob").exception
    assert isinstance(nobody, ConfigError)
    assert tollgate("revocations", "list").stdout == ""


@pytest.mark.parametrize(
    ("kind", "entry_id"),
    [
        ("token", "t:demo:jti-1"),
        ("session", "s:demo:sid-1"),
        ("user", "u:demo:sub-1"),
        ("client", "c:demo:web-app"),
        ("issuer", "i:demo:"),
    ],
)
def test_a_decision_says_what_to_revoke_and_to_lift(
    tollgate: Tollgate, ledger: Ledger, redis_url: str, kind: str, entry_id: str
) -> None:
    decision = ledger.call()
    assert tollgate("revoke", kind, "--decision", decision).exit_code == 0
    assert held(redis_url, entry_id)
    assert tollgate("revocations", "lift", kind, "--decision", decision).exit_code == 0
    assert held(redis_url, entry_id) is None


def test_a_decision_that_is_still_in_the_stream_is_found_and_one_that_is_nowhere_is_not(
    tollgate: Tollgate, redis_url: str
) -> None:
    fresh = "01981f00-0000-7000-8000-000000000001"
    with Redis.from_url(redis_url) as redis:
        event = encode(Event(fresh, issuer=ISS, subject="sub-9", token_id="jti-9"))
        redis.xadd("{tg0}:events", {"e": event, "o": 0}, id=f"{uuid.UUID(fresh).int >> 80}-1")
    assert "user sub-9 of demo" in tollgate("revoke", "user", "--decision", fresh).stdout
    session = tollgate("revoke", "session", "--decision", fresh).exception
    assert str(session) == "the decision has no sid: revoke its token or user instead"
    nowhere = tollgate("revoke", "user", "--decision", str(uuid.uuid4())).exception
    assert isinstance(nowhere, TollgateError)
    assert "there is no decision" in str(nowhere)


@pytest.mark.parametrize(
    ("kind", "entry_id"), [("token", "t:demo:onrtro:1"), ("user", "u:demo:s"), ("issuer", "i:demo:")]
)
def test_a_token_from_standard_input_is_revoked_and_never_shown(
    tollgate: Tollgate, redis_url: str, kind: str, entry_id: str
) -> None:
    token = jwt.encode({"iss": ISS, "jti": "onrtro:1", "sub": "s"}, "x" * 32, algorithm="HS256")
    result = tollgate("revoke", kind, "--jwt", "-", stdin=f"Bearer {token}\n")
    assert result.exit_code == 0, result.output
    assert (
        "not verified: a check refuses it (token_malformed); the claims of the token are taken as they are"
        in result.stderr
    )
    assert token not in result.output
    assert held(redis_url, entry_id)


def test_a_token_in_the_command_line_is_not_repeated(tollgate: Tollgate) -> None:
    token = jwt.encode({"iss": ISS, "jti": "1"}, "x" * 32, algorithm="HS256")
    in_place = tollgate("revoke", "token", token, "--issuer", "demo")
    assert "this is a token, not its jti: pipe it into --jwt -" in str(in_place.exception)
    option = tollgate("revoke", "token", "--jwt", token)
    assert (option.exit_code, "a token comes through standard input: write -" in option.stderr) == (2, True)
    assert token not in option.output + str(in_place.exception) + in_place.output


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("user", "sub", "--issuer", "deno"), "--issuer: the policy has no issuer 'deno': did you mean demo?"),
        (("issuer", "deno"), "--issuer: the policy has no issuer 'deno': did you mean demo?"),
        (("user", "sub"), "--issuer: give the name of the issuer in the policy"),
        (("user", "sub", "--issuer", "Demo", "--force"), "--issuer: the name of an issuer is 1 to 32 of"),
        (("token", "--issuer", "demo"), "name what to revoke by exactly one of JTI, --jwt -, --decision ID"),
        (
            ("token", "jti", "--jwt", "-", "--issuer", "demo"),
            "name what to revoke by exactly one of JTI, --jwt -, --decision ID",
        ),
        (("client", "--username", "alice"), "name what to revoke by exactly one of AZP, --jwt -, --decision ID"),
        (("token", "--jwt", "-", "--issuer", "demo"), "--jwt: standard input holds no JWT"),
        (("user", "", "--issuer", "demo"), "no token can carry this sub: it must be 1 to 255 printable characters"),
        (("user", "a\nb", "--issuer", "demo"), "no token can carry this sub"),
        (("session", "\x1b[2J", "--issuer", "demo"), "no token can carry this sid"),
        (("client", "x" * 256, "--issuer", "demo"), "no token can carry this azp"),
        (("user", "sub", "--issuer", "demo", "--reason", "a\nb"), "--reason: at most 1000 printable characters"),
        (("user", "sub", "--issuer", "demo", "--by", "x" * 201), "--by: at most 200 printable characters"),
    ],
)
def test_bad_input_is_one_sentence_and_changes_nothing(
    tollgate: Tollgate, words: tuple[str, ...], sentence: str
) -> None:
    result = tollgate("revoke", *words, stdin="secret.secret.secret")
    assert isinstance(result.exception, ConfigError)
    assert str(result.exception).startswith(sentence)
    assert "secret" not in str(result.exception)
    assert tollgate("revocations", "history").stdout == ""


def test_force_takes_an_issuer_that_nobody_knows_and_a_lift_needs_none(
    tollgate: Tollgate, environ: dict[str, str | None], tmp_path: Path
) -> None:
    assert tollgate("revoke", "user", "sub", "--issuer", "deno", "--force").exit_code == 0
    assert tollgate("revocations", "lift", "user", "sub", "--issuer", "deno").exit_code == 0
    (tmp_path / "policy.yaml").write_text("broken")
    assert isinstance(tollgate("revoke", "user", "sub", "--issuer", "demo").exception, ConfigError)
    assert tollgate("revoke", "user", "sub", "--issuer", "demo", "--force").exit_code == 0


def test_without_a_policy_the_ledger_knows_the_issuers(
    tollgate: Tollgate, environ: dict[str, str | None], ledger: Ledger
) -> None:
    environ["TOLLGATE_POLICY"] = None
    unknown = tollgate("revoke", "user", "sub-1", "--issuer", "demo").exception
    assert str(unknown).startswith("--issuer: it is not known whether there is an issuer 'demo': set TOLLGATE_POLICY")
    ledger.call()
    assert tollgate("revoke", "user", "sub-1", "--issuer", "demo").exit_code == 0
    typo = tollgate("revoke", "user", "sub-1", "--issuer", "dmeo").exception
    assert str(typo).startswith("--issuer: the ledger has no issuer 'dmeo': did you mean demo?")
    token = jwt.encode({"iss": ISS, "jti": "1"}, "x" * 32, algorithm="HS256")
    by_token = tollgate("revoke", "token", "--jwt", "-", stdin=token)
    assert (by_token.exit_code, by_token.stdout.startswith("token 1 of demo: ")) == (0, True)
    assert "not verified: there is no policy in TOLLGATE_POLICY" in by_token.stderr


def test_who_does_it_is_who_is_logged_in_unless_they_say(tollgate: Tollgate) -> None:
    tollgate("revoke", "user", "one", "--issuer", "demo")
    tollgate("revoke", "user", "two", "--issuer", "demo", "--by", "the night shift")
    newest, oldest = tollgate("revocations", "list").stdout.splitlines()
    assert newest.endswith("by the night shift")
    assert oldest.endswith(f"by {getpass.getuser()}@{socket.gethostname()}")


def test_revoking_again_tells_who_was_first_and_keeps_both(tollgate: Tollgate) -> None:
    tollgate("revoke", "user", "sub", "--issuer", "demo", "--by", "alice", "--reason", "left the company")
    again = tollgate("revoke", "user", "sub", "--issuer", "demo", "--by", "bob", "--reason", "laptop stolen")
    assert " by alice: left the company; that stays, this is in the history" in again.stdout
    (line,) = tollgate("revocations", "list").stdout.splitlines()
    assert line.endswith("by alice: left the company")
    first, second = tollgate("revocations", "history", "sub").stdout.splitlines()
    assert "  revoked  user sub of demo  issued until 20" in first
    assert first.endswith(", by alice (as postgres in postgres): left the company")
    assert "  revoked again  user sub of demo  issued until 20" in second
    assert second.endswith(", by bob (as postgres in postgres): laptop stolen")


def test_what_is_lifted_is_out_of_force_and_says_who_had_revoked_it(tollgate: Tollgate, redis_url: str) -> None:
    tollgate("revoke", "token", "jti", "--issuer", "demo", "--by", "alice", "--reason", "lost")
    result = tollgate("revocations", "lift", "token", "jti", "--issuer", "demo", "--by", "bob", "--reason", "found")
    assert (result.exit_code, result.stdout.splitlines()[0]) == (0, f"token jti of demo: {LIFTED}")
    assert result.stdout.splitlines()[1].endswith("by alice: lost")
    assert held(redis_url, "t:demo:jti") is None
    assert tollgate("revocations", "list").stdout == ""
    again = tollgate("revocations", "lift", "token", "jti", "--issuer", "demo")
    assert (again.exit_code, again.stdout) == (1, "token jti of demo: no such revocation is in force\n")
    last = tollgate("revocations", "history", "jti").stdout.splitlines()[-1]
    assert "  lifted  token jti of demo  " in last
    assert last.endswith(", by bob (as postgres in postgres): found")


def test_an_issuer_is_lifted_by_its_name(tollgate: Tollgate) -> None:
    for words in (("demo",), ("--issuer", "demo")):
        tollgate("revoke", "issuer", "demo")
        assert tollgate("revocations", "lift", "issuer", *words).exit_code == 0
    assert len(tollgate("revocations", "history", "demo").stdout.splitlines()) == 4


def test_the_list_is_filtered_and_paged(tollgate: Tollgate, ledger: Ledger) -> None:
    ledger.call()
    for number in range(5):
        tollgate("revoke", "session", f"sid-{number}", "--issuer", "other")
    tollgate("revoke", "user", "sub-1", "--issuer", "demo")

    def listed(*words: str) -> list[str]:
        found = json.loads(tollgate("revocations", "list", "--json", *words).stdout)
        return [each["id"] for each in found["revocations"]]

    everything = ["u:demo:sub-1", *(f"s:other:sid-{number}" for number in (4, 3, 2, 1, 0))]
    assert listed() == listed("--since", "1h") == listed("--since", "2020-01-01") == everything
    assert listed("--since", "2999-01-01T00:00:00Z") == []
    assert listed("--kind", "user") == listed("--user", "sub-1") == listed("--user", "ALICE") == everything[:1]
    assert listed("--issuer", "other") == everything[1:]
    assert listed("--limit", "2", "--after", "s:other:sid-4") == ["s:other:sid-3", "s:other:sid-2"]

    first = tollgate("revocations", "list", "--limit", "4")
    assert (len(first.stdout.splitlines()), first.stderr) == (4, "there are more: --after s:other:sid-2\n")
    last = json.loads(tollgate("revocations", "list", "--limit", "4", "--after", "s:other:sid-2", "--json").stdout)
    assert (len(last["revocations"]), last["more"]) == (2, None)
    assert last["revocations"][0].keys() == {
        *("id", "kind", "issuer", "value", "revoked_at", "not_before", "expires_at", "by", "reason"),
    }


def test_history_is_there_for_machines_too_and_shows_what_was_before(tollgate: Tollgate) -> None:
    tollgate("revoke", "token", "jti", "--issuer", "demo", "--expires-in", "1d")
    tollgate("revoke", "token", "jti", "--issuer", "demo", "--expires-in", "2d")
    tollgate("revoke", "token", "other", "--issuer", "demo")
    lines = tollgate("revocations", "history", "jti", "--json").stdout.splitlines()
    first, second = map(json.loads, lines)
    assert (first["change"], second["change"]) == ("revoked", "revoked again")
    assert first["expires_at_then"] is None
    assert second["expires_at_then"] == first["expires_at"] < second["expires_at"]
    assert " -> " in tollgate("revocations", "history", "jti").stdout.splitlines()[1]
    assert len(tollgate("revocations", "history").stdout.splitlines()) == 3
    assert len(tollgate("revocations", "history", "--limit", "1").stdout.splitlines()) == 1
    assert tollgate("revocations", "history", "jti", "--kind", "user").stdout == ""


def test_what_was_written_by_hand_moves_no_cursor(tollgate: Tollgate, database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO revocations (kind, issuer, value, reason) VALUES ('token', 'demo', 'jti', %s)", ["a\x1b[2J\nb"]
        )
    for words in (("list",), ("history", "jti")):
        (line,) = tollgate("revocations", *words).stdout.splitlines()
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
