"""Which commands there are, and what is printed without the development stack."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from importlib.metadata import EntryPoints
from pathlib import Path

import click
import pytest

from ext_authz import cli

POLICY = Path(__file__).parents[2] / "docs" / "cookbook" / "01-public-health" / "policy.yaml"


@pytest.fixture
def plain_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the distribution `tollgate` is there."""
    monkeypatch.setattr(cli, "entry_points", lambda group: EntryPoints())


@pytest.mark.parametrize("command", ["demo", "down", "status", "up"])
@pytest.mark.usefixtures("plain_install")
def test_a_plain_install_names_the_distribution(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["tollgate", command])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    sentence = f"tollgate: `tollgate {command}` is part of the development stack: pip install tollgate-devstack\n"
    assert capsys.readouterr().err == sentence


@pytest.mark.usefixtures("plain_install")
def test_the_help_of_a_plain_install_does_not_list_them() -> None:
    listed = cli.cli.list_commands(click.Context(cli.cli))
    assert "serve" in listed
    assert not {"demo", "down", "status", "up"} & {*listed}


@pytest.mark.parametrize("target", [command.target for command in cli._COMMANDS.values()])
def test_every_command_of_the_table_exists(target: str) -> None:
    assert isinstance(pkgutil.resolve_name(target), click.Command)


@pytest.mark.parametrize(
    "arguments", [["--help"], ["policy", "--help"], ["settings"], ["policy", "check", str(POLICY)]]
)
def test_these_import_no_library_of_stores_or_servers(arguments: list[str]) -> None:
    program = (
        "import sys; from ext_authz import cli; sys.argv[0] = 'tollgate'\ntry: cli.main()\nfinally: print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program, *arguments], check=True, capture_output=True, text=True)
    imported = {name.partition(".")[0] for name in done.stdout.splitlines()[-1].split()}
    assert "ext_authz" in imported
    assert not imported & {"asyncio", "cryptography", "grpc", "h2corn", "hiredis", "httpx", "jwt", "prometheus_client"}
    assert not imported & {"psycopg", "psycopg_pool", "redis", "starlette", "uvicorn", "uvloop"}
