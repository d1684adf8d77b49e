"""Which commands there are, and what is printed without the development stack."""

from __future__ import annotations

import os
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoints
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from ext_authz import __version__, cli
from ext_authz.errors import ConfigError

POLICY = Path(__file__).parents[2] / "docs" / "cookbook" / "01-public-health" / "policy.yaml"


def walked(command: click.Command, context: click.Context) -> Iterator[tuple[click.Command, click.Context]]:
    """The command with all below it."""
    yield command, context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below
            yield from walked(below, click.Context(below, parent=context, info_name=name))


COMMANDS = {
    context.command_path: (command, context)
    for command, context in walked(cli.cli, click.Context(cli.cli, info_name="tollgate", **cli.cli.context_settings))
}
everywhere = pytest.mark.parametrize("path", COMMANDS)


@everywhere
def test_help_fits_eighty_columns(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    # click keeps the option of the first call, which may have been a test of this command without those above it.
    monkeypatch.setattr(COMMANDS[path][0], "_help_option", None)
    short, long = (CliRunner().invoke(cli.cli, [*path.split()[1:], option]) for option in ("-h", "--help"))
    assert (short.exit_code, short.output) == (0, long.output)
    assert max(map(len, short.output.splitlines())) <= 80
    assert '""' not in short.output
    assert "..." not in short.output.replace("[ARGS]...", "").replace("]...", "").replace("S...", "")


@everywhere
def test_every_option_has_a_help_text(path: str) -> None:
    command, context = COMMANDS[path]
    for parameter in command.get_params(context):
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.opts
            assert re.fullmatch(r"[A-Z`].*[.)]", parameter.help, re.DOTALL), parameter.help


@everywhere
def test_a_summary_is_one_line_and_the_same_in_the_list(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    command, context = COMMANDS[path]
    if context.parent:
        line = rf"^  {re.escape(path.split()[-1])} +{re.escape(command.get_short_help_str(200))}$"
        listed = context.parent.command.get_help(context.parent)
        assert re.search(line, listed, re.MULTILINE), (line, listed)


@everywhere
def test_an_unknown_option_is_exit_code_2(path: str) -> None:
    done = CliRunner().invoke(cli.cli, [*path.split()[1:], "--no-such-option"])
    assert (done.exit_code, done.stdout) == (2, "")
    assert "No such option '--no-such-option'" in done.stderr


@everywhere
def test_options_have_the_same_form_in_all_commands(path: str) -> None:
    command, _ = COMMANDS[path]
    options = {name for parameter in command.params for name in parameter.opts}
    assert not options & {"--json", "--jsonl", "--csv", "--output", "--token", "-f", "-o", "-p"}


def test_without_arguments_it_shows_what_one_does_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "policy.yaml").write_text(POLICY.read_text())
    done = CliRunner().invoke(cli.cli, [])
    lines = re.findall(r"^  tollgate (.*?)  ", done.output, re.MULTILINE)
    assert (done.exit_code, len(lines)) == (0, 5)
    for line in lines:
        command: click.Command = cli.cli
        words = line.split()
        while isinstance(command, click.Group) and words and not words[0].startswith("-"):
            below = command.get_command(click.Context(command), words[0])
            assert below, line
            command, words = below, words[1:]
        command.make_context("tollgate", words)


def test_a_shell_completes_commands_without_importing_them() -> None:
    environ = os.environ | {"_TOLLGATE_COMPLETE": "bash_complete", "COMP_WORDS": "tollgate rev", "COMP_CWORD": "1"}
    program = "import sys; from ext_authz import cli\ntry: cli.main()\nfinally: print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", program], env=environ, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["plain,revocations", "plain,revoke"]
    assert "ext_authz.revocation" not in done.stderr.split()


@pytest.mark.parametrize(
    "arguments",
    [["policy", "check", "-"], ["policy", "render", "envoy", "-"], ["policy", "explain", "GET", "/v2", "-"]],
)
def test_a_policy_comes_from_standard_input(arguments: list[str]) -> None:
    assert CliRunner().invoke(cli.cli, arguments, input=POLICY.read_bytes()).exit_code == 0
    wrong = CliRunner().invoke(cli.cli, arguments, input="version: 1\nroutes: []\nnothing: here\n")
    assert "-:1:1: error" in f"{wrong.output}{wrong.exception}"


@pytest.mark.parametrize(
    "arguments", [["check", "-", "-"], ["diff", "-", "-"], ["explain", "GET", "/", "-", "--jwt", "-"]]
)
def test_standard_input_is_read_once(arguments: list[str]) -> None:
    done = CliRunner().invoke(cli.cli, ["policy", *arguments], input="x")
    assert isinstance(done.exception, ConfigError)


@pytest.mark.parametrize(("typed", "meant"), [("polcy", "policy"), ("policy rendr", "render"), ("setings", "settings")])
def test_a_misspelt_command_is_named(typed: str, meant: str) -> None:
    done = CliRunner().invoke(cli.cli, typed.split())
    assert done.exit_code == 2
    assert f"Did you mean {meant!r}?" in done.stderr or f"one of: '{meant}'" in done.stderr


@pytest.mark.parametrize("arguments", [["check"], ["render", "envoy"], ["explain", "GET", "/v2"]])
def test_a_policy_is_an_argument_or_the_setting(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    missing = CliRunner().invoke(cli.cli, ["policy", *arguments])
    assert str(missing.exception).startswith("no policy: write a file, a directory, or - for standard input, or set ")
    monkeypatch.setenv("TOLLGATE_POLICY", str(POLICY))
    assert CliRunner().invoke(cli.cli, ["policy", *arguments]).exit_code == 0


def test_several_policies_are_checked_at_once(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("version: 2\n")
    done = CliRunner().invoke(cli.cli, ["policy", "check", str(POLICY), str(wrong)])
    assert done.exit_code == 2
    assert str(wrong) in done.output
    assert str(POLICY) not in done.output


@pytest.fixture
def plain_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the distribution `tollgate` is there."""
    monkeypatch.setattr(cli, "entry_points", lambda group: EntryPoints())


@pytest.mark.parametrize("command", ["demo", "down", "models", "status", "up"])
@pytest.mark.usefixtures("plain_install")
def test_a_plain_install_names_the_distribution(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["tollgate", command])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    wheel = f"tollgate_devstack-{__version__}-py3-none-any.whl"
    sentence = f"tollgate: `tollgate {command}` is part of the development stack: install its wheel, {wheel}\n"
    assert capsys.readouterr().err == sentence


def test_a_file_that_cannot_be_written_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "none" / "envoy.yaml"
    monkeypatch.setattr(sys, "argv", ["tollgate", "policy", "render", "envoy", str(POLICY), "--out", str(out)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert (ended.value.code, capsys.readouterr().err) == (1, f"tollgate: {out}: no such file or directory\n")


@pytest.mark.usefixtures("plain_install")
def test_the_help_of_a_plain_install_does_not_list_them() -> None:
    listed = cli.cli.list_commands(click.Context(cli.cli))
    assert "serve" in listed
    assert not {"demo", "down", "models", "status", "up"} & {*listed}


@pytest.mark.parametrize("target", [command.target for command in cli._COMMANDS.values()])
def test_every_command_of_the_table_exists(target: str) -> None:
    assert isinstance(pkgutil.resolve_name(target), click.Command)


@pytest.mark.parametrize(
    "arguments", [["--help"], ["policy", "--help"], ["settings"], ["policy", "check", str(POLICY)]]
)
def test_these_import_no_library_of_stores_or_servers(arguments: list[str]) -> None:
    imported = {name.partition(".")[0] for name in imported_by(arguments)}
    assert "ext_authz" in imported
    assert not imported & {"asyncio", "cryptography", "grpc", "h2corn", "hiredis", "httpx", "jwt", "prometheus_client"}
    assert not imported & {"psycopg", "psycopg_pool", "redis", "starlette", "uvicorn", "uvloop"}


@pytest.mark.parametrize(
    "arguments",
    [
        *(["decisions"], ["usage"], ["usage", "export"], ["usage-worker"], ["explain"], ["policy", "explain"]),
        *(["revoke"], ["revoke", "user"], ["revocations", "list"], ["revocations", "lift"]),
    ],
)
def test_the_help_of_these_imports_no_policy_settings_or_stores(arguments: list[str]) -> None:
    imported = imported_by([*arguments, "--help"])
    assert {"ext_authz.report", "ext_authz.usage_worker.commands"} & imported
    heavy = {"asyncio", "cryptography", "httpx", "jwt", "prometheus_client", "psycopg", "pydantic", "redis", "yaml"}
    assert not imported & heavy
    light = {"ext_authz.policy.kserve", "ext_authz.policy.names", "ext_authz.policy.rights"}  # what an identity is of
    assert not [name for name in imported - light if name.startswith(("ext_authz.policy.", "ext_authz.settings"))]


def imported_by(arguments: list[str]) -> set[str]:
    program = (
        "import sys; from ext_authz import cli; sys.argv[0] = 'tollgate'\ntry: cli.main()\nfinally: print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program, *arguments], check=True, capture_output=True, text=True)
    return set(done.stdout.splitlines()[-1].split())
