"""Which commands there are, and what is printed without the development stack."""

from __future__ import annotations

import pkgutil
from importlib.metadata import EntryPoints

import click
import pytest

from ext_authz import cli


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


@pytest.mark.parametrize("target", [target for target, _ in cli._COMMANDS.values()])
def test_every_command_of_the_table_exists(target: str) -> None:
    assert isinstance(pkgutil.resolve_name(target), click.Command)
