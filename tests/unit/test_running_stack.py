"""Which stack commands find, which they never use, and the settings that a shell gets of it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from devstack.stack.directory import StateDirectory
from devstack.stack.settings import load_running_settings
from ext_authz.cli import cli
from ext_authz.errors import ConfigError
from ext_authz.running_stack import SETTINGS, running_directory, running_stack, stacks_directory

VARIABLES = {"TOLLGATE_REDIS_URL": "redis://:p'w$(date)@h/0", "TOLLGATE_POLICY": "/a place/zürich=1/policy.yaml"}


@pytest.fixture(autouse=True)
def _home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("TOLLGATE_STATE_DIR", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def up(tmp_path: Path) -> Iterator[ExitStack]:
    """Stacks that are entered here run until the end of the test."""
    with ExitStack() as stacks:
        yield stacks


def started(up: ExitStack, root: Path) -> StateDirectory:
    state = StateDirectory(root)
    up.enter_context(state.locked())
    state.list_settings(VARIABLES)
    return state


def test_a_stack_is_found_while_it_runs(up: ExitStack, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert running_stack() == {}
    state = started(up, tmp_path / "one")
    assert running_directory() == tmp_path / "one"
    assert running_stack() == running_stack() == VARIABLES
    assert capsys.readouterr().err == f"using the stack that tollgate up runs in {tmp_path / 'one'}\n", "once"
    assert load_running_settings().state_dir == tmp_path / "one"
    state.unlist()
    assert running_stack() == {}
    assert list(stacks_directory().iterdir()) == []


def test_a_stack_that_was_killed_is_not_used(tmp_path: Path) -> None:
    with StateDirectory(tmp_path / "one").locked():
        StateDirectory(tmp_path / "one").list_settings(VARIABLES)
    assert (tmp_path / "one" / SETTINGS).exists()
    assert running_directory() is None


@pytest.mark.parametrize("listed", [True, False])
def test_what_others_could_have_written_is_not_used(up: ExitStack, tmp_path: Path, listed: bool) -> None:  # noqa: FBT001 - a table
    state = started(up, tmp_path / "one")
    file = stacks_directory() / state.mark if listed else tmp_path / "one" / SETTINGS
    for mode in (0o620, 0o604, 0o640):
        file.chmod(mode)
        assert running_directory() is None
    file.chmod(0o600)
    assert running_directory()
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    assert running_directory() is None


def test_of_two_stacks_one_has_to_be_chosen(up: ExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = (started(up, tmp_path / name).root for name in ("one", "two"))
    with pytest.raises(ConfigError, match=f"2 stacks run .*: choose one with TOLLGATE_STATE_DIR={one} or {two}"):
        running_stack()
    monkeypatch.setenv("TOLLGATE_STATE_DIR", str(two))
    assert running_directory() == two
    for other in (str(tmp_path / "three"), "~of-no-user/state"):
        monkeypatch.setenv("TOLLGATE_STATE_DIR", other)
        assert running_directory() is None


def test_down_in_the_folder_of_a_stack_is_about_that_stack(up: ExitStack, tmp_path: Path) -> None:
    with StateDirectory(tmp_path / ".state").locked():
        pass
    started(up, tmp_path / "one")
    assert load_running_settings().state_dir == tmp_path / ".state"


def env() -> Result:
    return CliRunner().invoke(cli, ["env"])


def test_the_settings_of_a_running_stack_are_set_by_a_shell(up: ExitStack, tmp_path: Path) -> None:
    assert str(env().exception) == "no stack runs on this machine: start one with tollgate up"
    started(up, tmp_path / "one")
    printed = env().stdout
    assert printed.startswith(f'# of the stack in {tmp_path / "one"}; to set them: eval "$(tollgate env)"\n')
    for shell in ("sh", "bash"):
        show = 'eval "$1"; printf "%s\\n" "$TOLLGATE_REDIS_URL" "$TOLLGATE_POLICY"'
        shown = subprocess.run([shell, "-c", show, shell, printed], capture_output=True, text=True, check=True).stdout
        assert shown.splitlines() == list(VARIABLES.values())
