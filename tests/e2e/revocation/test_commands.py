"""`tollgate revoke` and `tollgate revocations`, as an operator types them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import jwt
import pytest
from click.testing import CliRunner, Result
from redis import Redis

from ext_authz.db.migrate import migrate
from ext_authz.errors import ConfigError, Unavailable
from ext_authz.revocation.commands import revocations, revoke
from tests.services import free_port

Tollgate = Callable[..., Result]

POLICY = """
version: 1
issuers:
  - {name: demo, issuer: "https://idp.example/realms/demo", jwks_url: "https://idp.example/certs", audiences: [models]}
routes:
  - {name: live, path: /v2/health/live, methods: [GET], public: true}
"""


@pytest.fixture
def environ(database_url: str, redis_url: str) -> dict[str, str | None]:
    asyncio.run(migrate(database_url))
    return {"TOLLGATE_DATABASE_URL": database_url, "TOLLGATE_REDIS_URL": redis_url, "TOLLGATE_POLICY": None}


@pytest.fixture
def tollgate(environ: dict[str, str | None]) -> Tollgate:
    def run(*words: str, stdin: str = "") -> Result:
        command = {"revoke": revoke, "revocations": revocations}[words[0]]
        return CliRunner().invoke(command, words[1:], env=environ, input=stdin)

    return run


def held(redis_url: str, entry_id: str) -> bytes | None:
    with Redis.from_url(redis_url) as redis:
        value = redis.get(f"{{tg0}}:r:{entry_id}")
        return value if isinstance(value, bytes) and not value.startswith(b"-") else None


@pytest.mark.parametrize(
    ("words", "entry_id"),
    [
        (("token", "jti", "--issuer", "demo"), "t:demo:jti"),
        (("session", "sid", "--issuer", "demo"), "s:demo:sid"),
        (("user", "sub", "--issuer", "demo", "--reason", "left", "--actor", "ops"), "u:demo:sub"),
        (("client", "azp", "--issuer", "demo", "--expires-in", "90m"), "c:demo:azp"),
        (("issuer", "demo"), "i:demo:"),
    ],
)
def test_everything_that_can_be_revoked_is_in_force_when_the_command_ends(
    tollgate: Tollgate, redis_url: str, words: tuple[str, ...], entry_id: str
) -> None:
    result = tollgate("revoke", *words)
    assert (result.exit_code, result.output) == (0, f"{entry_id}  in force: postgres and redis hold it\n")
    assert held(redis_url, entry_id)


def test_the_list_says_what_whom_until_when_who_and_why(tollgate: Tollgate) -> None:
    tollgate("revoke", "user", "sub", "--issuer", "demo", "--reason", "left the company", "--actor", "ops")
    tollgate("revoke", "session", "sid", "--issuer", "other")
    first, second = tollgate("revocations", "list").output.splitlines()
    assert "user sub of demo  issued until 20" in first
    assert first.endswith("by ops: left the company")
    assert "session sid of other  kept until 20" in second
    assert tollgate("revocations", "list", "--issuer", "other").output == second + "\n"


def test_what_is_lifted_is_out_of_force_and_out_of_the_list(tollgate: Tollgate, redis_url: str) -> None:
    tollgate("revoke", "token", "jti", "--issuer", "demo")
    result = tollgate("revocations", "lift", "token", "jti", "--issuer", "demo")
    assert (result.exit_code, result.output) == (0, "t:demo:jti  lifted: postgres and redis hold it\n")
    assert held(redis_url, "t:demo:jti") is None
    assert tollgate("revocations", "list").output == ""
    again = tollgate("revocations", "lift", "token", "jti", "--issuer", "demo")
    assert (again.exit_code, again.output) == (1, "Error: no such revocation is in force: token jti of demo\n")


def test_a_token_from_standard_input_is_revoked_and_never_shown(
    tollgate: Tollgate, environ: dict[str, str | None], redis_url: str, tmp_path: Path
) -> None:
    (tmp_path / "policy.yaml").write_text(POLICY)
    environ["TOLLGATE_POLICY"] = str(tmp_path / "policy.yaml")
    token = jwt.encode({"iss": "https://idp.example/realms/demo", "jti": "onrtro:1"}, "x" * 32, algorithm="HS256")
    result = tollgate("revoke", "token", "--jwt", "-", stdin=token + "\n")
    assert result.exit_code == 0, result.output
    assert "not verified: the token calls itself 'onrtro:1' of 'https://idp.example/realms/demo'" in result.stderr
    assert token not in result.output
    assert held(redis_url, "t:demo:onrtro:1")


def test_an_issuer_that_the_policy_does_not_have_would_revoke_nothing(
    tollgate: Tollgate, environ: dict[str, str | None], tmp_path: Path
) -> None:
    (tmp_path / "policy.yaml").write_text(POLICY)
    environ["TOLLGATE_POLICY"] = str(tmp_path / "policy.yaml")
    result = tollgate("revoke", "user", "sub", "--issuer", "deno")
    assert isinstance(result.exception, ConfigError)
    assert str(result.exception) == "--issuer: the policy has no issuer 'deno', only demo"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("token", "--issuer", "demo"), "give either a JTI or --jwt"),
        (("token", "jti", "--jwt", "-", "--issuer", "demo"), "give either a JTI or --jwt"),
        (("token", "jti"), "--issuer: say the name of the issuer in the policy"),
        (("token", "--jwt", "-", "--issuer", "demo"), "--jwt: standard input holds no JWT"),
        (("user", "", "--issuer", "demo"), "not a revocation: "),
        (("user", "sub", "--issuer", "Demo"), "not a revocation: "),
    ],
)
def test_bad_input_is_one_sentence(tollgate: Tollgate, words: tuple[str, ...], sentence: str) -> None:
    result = tollgate("revoke", *words, stdin="secret.secret.secret")
    assert isinstance(result.exception, ConfigError)
    assert str(result.exception).startswith(sentence)
    assert "secret" not in str(result.exception)


@pytest.mark.parametrize("duration", ["0d", "30", "-1d", "1w", "1.5h", "3651d", "99999999d"])
def test_a_lifetime_needs_a_unit(tollgate: Tollgate, duration: str) -> None:
    result = tollgate("revoke", "user", "sub", "--issuer", "demo", "--expires-in", duration)
    assert result.exit_code == 2
    assert "like 90s, 15m, 12h or 30d" in result.output


def test_a_store_that_does_not_hold_it_is_named(tollgate: Tollgate, environ: dict[str, str | None]) -> None:
    environ["TOLLGATE_REDIS_URL"] = f"redis://127.0.0.1:{free_port()}/0"
    without_redis = tollgate("revoke", "user", "sub", "--issuer", "demo")
    assert without_redis.exit_code == 1
    assert without_redis.output.startswith("u:demo:sub  postgres holds it, redis does not (")
    environ["TOLLGATE_DATABASE_URL"] = f"postgresql://127.0.0.1:{free_port()}/none"
    without_both = tollgate("revoke", "user", "sub", "--issuer", "demo")
    assert without_both.exit_code == 1
    assert without_both.output.startswith("u:demo:sub  not known to be revoked: postgres did not confirm it")
    assert isinstance(tollgate("revocations", "list").exception, Unavailable)
