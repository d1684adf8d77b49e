"""`tollgate policy new`: what it writes is good, without a warning, and passes the tests that it writes beside it."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ext_authz.policytool.commands import policy
from tests.unit.policytool.command_line import run

FLAGS = ("--issuer", "https://id.example/realms/ml", "--audience", "triton-gateway", "--model", "sentiment")


def new(*arguments: str | Path) -> Result:
    return CliRunner().invoke(policy, ["new", *map(str, arguments)])


@pytest.mark.parametrize(
    "more",
    [
        (),
        ("--model", "draft-*", "--model", "sentiment"),
        ("--model", "1", "--model", "true", "--model", "*x"),
        ("--role", "a, b: {c} # 'd'", "--audience", "[x]"),
        ("--role", "yes", "--audience", "1"),
        ("--limit", "1/second"),
        ("--limit", "999999999/day"),
        ("--limit", "100/month"),
        ("--usernames",),
        ("--issuer", "http://127.0.0.1:8081/realms/x,y"),
    ],
)
def test_what_it_writes_is_good_and_passes_its_tests(tmp_path: Path, more: tuple[str, ...]) -> None:
    written = new(*FLAGS, *more, "--out", tmp_path / "policy.yaml")
    assert written.exit_code == 0, written.output
    assert run("check", "--strict", tmp_path / "policy.yaml").output == "good\n"
    assert "6 passed, 0 failed" in run("test", tmp_path / "tests").output
    assert (tmp_path / "policy.yaml").read_text().startswith("# yaml-language-server: $schema=policy.schema.json\n")
    assert (tmp_path / "policy.schema.json").read_text() == run("schema").output


def test_a_model_that_comes_first_is_the_one_of_the_tests(tmp_path: Path) -> None:
    new("--model", "*draft", *FLAGS, "--out", tmp_path / "policy.yaml")
    assert "6 passed, 0 failed" in run("test", tmp_path / "tests").output


def test_it_is_printed_where_no_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    printed = new(*FLAGS)
    assert printed.exit_code == 0
    assert run("check", "--strict", "-", stdin=printed.output).output == "good\n"
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    theirs = tmp_path / "tests" / "policy.yaml"
    theirs.write_text("mine")
    refused = new(*FLAGS, "--out", tmp_path / "policy.yaml")
    assert f"{theirs} exists already" in str(refused.exception)
    assert theirs.read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["tests"]


def test_where_it_cannot_write_nothing_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "policy.yaml").write_text("mine")
    assert "exists already" in str(new("--out", tmp_path / "policy.yaml").exception)
    assert "there is no folder /none, create it first" in str(new("--out", "/none/of/policy.yaml").exception)
    monkeypatch.setattr(os, "access", lambda *_: False)  # these tests may run as root
    refused = new("--out", tmp_path / "new" / "policy.yaml")
    assert f"this user may not write to the folder {tmp_path}" in str(refused.exception)


def test_names_of_users_are_stored_where_that_is_wanted() -> None:
    assert "\nexplain: {usernames: true}\n" in new(*FLAGS, "--usernames").output
    assert "\n# explain: {usernames: true}\n" in new(*FLAGS).output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (FLAGS[2:], "Missing option '--issuer'. For example https://id.example/realms/ml."),
        (FLAGS[:4], "Missing option '--model'. For example sentiment."),
        ((*FLAGS, "--limit", "10/min"), "'10/min' is not a rate: write 10/minute"),
        (
            (*FLAGS, "--issuer", "id.example"),
            "'id.example' does not have the right form: write an address such as https://id.example/realms/ml",
        ),
        ((*FLAGS, "--model", "a/b"), "'a/b' does not have the right form: write letters, digits, _, . and -"),
        ((*FLAGS, "--audience", "${AUDIENCE}"), "write the value itself"),
        ((*FLAGS, "--out", "/proc/none/policy.yaml"), "cannot write /proc/none/policy.yaml: No such file"),
    ],
)
def test_what_is_missing_or_wrong_is_named(arguments: tuple[str, ...], said: str) -> None:
    refused = new(*arguments)
    assert refused.exit_code != 0
    assert said in refused.output + str(refused.exception)


def test_on_a_terminal_it_asks(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "ext_authz", "policy", "new", "--out", str(tmp_path / "policy.yaml")]
    with subprocess.Popen(command, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        answers = (
            "id.example",
            "https://id.example/realms/ml",
            "triton-gateway",
            "sentiment cancer",
            "",
            "5",
            "5/hour",
            "y",
        )
        os.write(ours, "".join(f"{answer}\n" for answer in answers).encode())
        printed, asked = process.communicate(timeout=60)
    assert process.returncode == 0, asked
    assert b"write an address such as" in asked
    assert b"write number/period" in asked
    assert b"find their calls by name? [y/N]" in asked
    assert printed.startswith(b"next: tollgate policy check")
    text = (tmp_path / "policy.yaml").read_text()
    assert "issuer: https://id.example/realms/ml\n" in text
    assert "  sentiment: {roles: [infer]}\n  cancer: {roles: [infer]}\n" in text
    assert "rate: 5/hour}" in text
    assert "\nexplain: {usernames: true}\n" in text
    os.close(ours)
    os.close(theirs)
