"""`tollgate revoke`: from what an operator has to what is in force, and what it affects."""

from __future__ import annotations

import uuid
from datetime import timedelta

import jwt
import pytest
from redis import Redis

from ext_authz.errors import ConfigError, TollgateError
from ext_authz.ledger.event import Event, encode
from tests.e2e.revocation.operator import HELD, ISS, Ledger, Tollgate, held


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
def test_what_it_affects_is_printed(tollgate: Tollgate, ledger: Ledger, words: tuple[str, str], tokens: str) -> None:
    ledger.call("jti-2", subject="sub-2", username="bob", session="", client="batch", age=timedelta(hours=3))
    ledger.call("jti-3", session="sid-3", age=timedelta(hours=1))
    ledger.call("jti-4")
    ledger.call("jti-1")
    issuer = () if words[0] == "issuer" else ("--issuer", "demo")
    result = tollgate("revoke", *words, *issuer)
    affected = result.stdout.splitlines()[1]
    assert affected == f"  affects {tokens} seen in the last 24 hours, last 2 min ago by client web-app"
    assert result.stderr == ""


def test_an_unknown_subject_is_in_force_with_a_warning(tollgate: Tollgate, ledger: Ledger) -> None:
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


def test_tokens_seen_long_ago_are_printed_as_such(tollgate: Tollgate, ledger: Ledger) -> None:
    ledger.call(age=timedelta(days=3, hours=1))
    result = tollgate("revoke", "user", "sub-1", "--issuer", "demo")
    assert "affects no token seen in the last 24 hours; the last one was seen 3 d ago" in result.stdout


def test_decisions_that_are_not_in_the_ledger_yet_are_counted(tollgate: Tollgate, redis_url: str) -> None:
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


def test_a_name_of_several_users_or_of_none_revokes_none(tollgate: Tollgate, ledger: Ledger) -> None:
    ledger.call("a", subject="sub-1")
    ledger.call("b", subject="sub-2")
    several = tollgate("revoke", "user", "--username", "alice").exception
    assert isinstance(several, ConfigError)
    assert "2 users have the name 'alice'" in str(several)
    assert "tollgate revoke user sub-2 --issuer demo" in str(several)
    nobody = tollgate("revoke", "user", "--username", "bob").exception
    assert isinstance(nobody, ConfigError)
    assert tollgate("revocations", "list").stdout == "none\n"


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
def test_a_decision_determines_what_to_revoke_and_to_lift(
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
        (("client", "--username", ""), "name what to revoke by exactly one of AZP, --jwt -, --decision ID"),
        (("user", "--username", ""), "--username: is empty: write the name of a user"),
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
    assert tollgate("revocations", "history").stdout == "none\n"


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
