"""The command as an operator types it: what is wrong is one sentence on stderr and exit code 2."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.server.certificates import Authority
from tests.services import free_port
from tests.tokens import mint

POLICY = """
version: 1
issuers:
  - {name: kc, issuer: "https://kc.example/realms/ml", audiences: [gateway]}
routes:
  - {name: live, path: /v2/health/live, methods: [GET], public: true}
"""


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """Good settings, of stores that do not exist."""
    policy = tmp_path / "policy.yaml"
    policy.write_text(POLICY)
    own = {
        "TOLLGATE_POLICY": str(policy),
        "TOLLGATE_DATABASE_URL": f"postgresql://u:hunter2@127.0.0.1:{free_port()}/d",
        "TOLLGATE_REDIS_URL": f"redis://127.0.0.1:{free_port()}/0",
        "TOLLGATE_LISTEN_PORT": str(free_port()),
        "TOLLGATE_ADMIN_PORT": str(free_port()),
    }
    return {name: value for name, value in os.environ.items() if not name.startswith("TOLLGATE_")} | own


def tollgate(*arguments: str, environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ext_authz", *arguments]
    return subprocess.run(command, env=environ, check=False, capture_output=True, text=True, timeout=60)


def test_help_names_every_command(environ: dict[str, str]) -> None:
    answer = tollgate("--help", environ=environ)
    assert answer.returncode == 0
    names = (
        "audit bill catalogue console decisions demo down env experiment explain filter gitlab ledger migrate models "
        "policy predictions quota revocations revoke serve settings signals status tokens up usage usage-worker"
    )
    listed = answer.stdout.split("Commands:")[1].strip("\n").splitlines()
    assert " ".join(line.split()[0] for line in listed if not line.startswith("   ")) == names


def test_good_settings_and_policy_pass_the_check(environ: dict[str, str]) -> None:
    answer = tollgate("serve", "--check", environ=environ)
    assert (answer.returncode, answer.stderr) == (0, "")
    assert answer.stdout.startswith("good: policy ")


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("TOLLGATE_LISTEN_PORT", "0", "TOLLGATE_LISTEN_PORT"),
        ("TOLLGATE_POLICY", "/nowhere", "TOLLGATE_POLICY: no readable file at /nowhere"),
        ("TOLLGATE_TLS_KEY", "/nowhere", "TOLLGATE_TLS_CERT and TOLLGATE_TLS_KEY go together"),
        ("TOLLGATE_TLS_CLIENTCA", "/nowhere", "TOLLGATE_TLS_CLIENTCA: no setting has this name: did you mean"),
        ("TOLLGATE_TLS_CLIENT_CA", "", "TOLLGATE_TLS_CLIENT_CA: is empty: unset it, or write a value"),
        ("TOLLGATE_JWKS_CA_FILE", "/nowhere", "TOLLGATE_JWKS_CA_FILE: cannot read /nowhere (No such file"),
        ("TOLLGATE_DATABASE_URL", "postgresql://u:9/s3cret@h/d", "TOLLGATE_DATABASE_URL: is not a URL of the form"),
        ("TOLLGATE_REDIS_URL", "redis://:9#s3cret@h/0", "TOLLGATE_REDIS_URL: is not a URL of the form"),
        (
            "TOLLGATE_REDIS_URL",
            "rediss://h?ssl_certs_reqs=none",
            "TOLLGATE_REDIS_URL: redis-py knows no option",
        ),
        ("TOLLGATE_REDIS_URL", "redis://h/mydb", "TOLLGATE_REDIS_URL: the database behind the / is a number"),
    ],
)
def test_a_wrong_setting_fails_the_check(environ: dict[str, str], name: str, value: str, sentence: str) -> None:
    answer = tollgate("serve", "--check", environ=environ | {name: value})
    assert (answer.returncode, answer.stdout) == (2, "")
    assert answer.stderr.startswith(f"tollgate: {sentence}")
    assert answer.stderr.count("\n") == 1
    assert "s3cret" not in answer.stderr


@pytest.mark.parametrize("command", ["serve", "migrate", "usage-worker", "status"])
def test_a_misspelt_setting_stops_every_command(environ: dict[str, str], command: str) -> None:
    answer = tollgate(command, environ=environ | {"TOLLGATE_LOG_LEVL": "debug"})
    assert (answer.returncode, answer.stdout) == (2, "")
    assert answer.stderr == "tollgate: TOLLGATE_LOG_LEVL: no setting has this name: did you mean TOLLGATE_LOG_LEVEL?\n"


def test_certificates_are_read_before_the_start(environ: dict[str, str], tmp_path: Path) -> None:
    authority = Authority(tmp_path, "mesh")
    (cert, _), (_, key) = authority.issue("tollgate"), authority.issue("other")
    wrong = {"TOLLGATE_TLS_CERT": str(cert), "TOLLGATE_TLS_KEY": str(key)}
    answer = tollgate("serve", "--check", environ=environ | wrong)
    assert answer.returncode == 2
    assert answer.stderr.startswith("tollgate: TOLLGATE_TLS_CERT and TOLLGATE_TLS_KEY: ")
    assert answer.stderr.count("\n") == 1


def test_a_wrong_policy_stops_the_start(environ: dict[str, str]) -> None:
    path = Path(environ["TOLLGATE_POLICY"])
    path.write_text(POLICY.replace("audiences", "audience"))
    answer = tollgate("serve", environ=environ)
    assert answer.returncode == 2
    assert "issuers.0.audience" in answer.stderr
    assert answer.stderr.count("\n") == 1


def test_a_store_that_does_not_answer_is_no_stack_trace(environ: dict[str, str]) -> None:
    answer = tollgate("migrate", environ=environ)
    assert answer.returncode == 1
    assert answer.stderr.startswith("tollgate: postgres does not answer")
    assert "Traceback" not in answer.stderr
    assert "hunter2" not in answer.stderr


@pytest.mark.parametrize(
    "command",
    [
        "policy explain GET /x --jwt",
        "policy explain GET /x --jwt=",
        "policy explain GET /x --source 10.0.0.1",
        "policy explain GET /x -H authorization=",
        "explain",
        "revocations lift",
        "usage",
        "",
    ],
)
def test_a_token_in_a_wrong_place_is_not_repeated(environ: dict[str, str], command: str) -> None:
    token = mint()
    glued = command.endswith("=")
    answer = tollgate(*(f"{command}{token}".split() if glued else [*command.split(), token]), environ=environ)
    assert answer.returncode != 0
    assert not any(part in answer.stdout + answer.stderr for part in token.split("."))
