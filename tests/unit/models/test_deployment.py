"""`tollgate models deploy` with a registry and a Triton that do as they are told: what is kept, and what is said."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from devstack.stack import deployment, loading, triton
from devstack.stack.deployment import Record, deploy
from devstack.stack.directory import StateDirectory
from devstack.stack.settings import StackSettings, load_stack_settings
from ext_authz.errors import ConfigError

_REGISTRY = """#!/bin/sh
shift 2
case $1 in
  served) test -e registry-away && { echo "the registry is away" >&2; exit 1; }; exit 0;;
esac
mkdir -p "$4/m/1"
echo "network $3" >"$4/m/1/network"
echo '{"registered": "m '$3'", "run": "r", "aliases": []}' >"$4/m/1/promoted.json"
echo sums >"$4/m/1/SHA256SUMS"
for step in fetch checksums gate signature; do
  [ "$3 $step" = "bad gate" ] && { echo "m fails its gate" >&2; exit 1; }
  echo '{"step": "'$step'", "said": "done"}'
done
echo '{"number": "'$3'", "version": "1"}'
"""

Deploys = Callable[[str], Record]


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    python = tmp_path / "models/training/.venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(_REGISTRY)
    python.chmod(0o755)
    version = tmp_path / "models/repository/m/1"
    version.mkdir(parents=True)
    (version / "model.py").write_text("code")
    monkeypatch.setattr(triton, "build_one", lambda *_: None)
    monkeypatch.setattr(loading, "ensure_live", lambda *_: None)
    monkeypatch.setattr(loading, "load", lambda *_: "ready")
    monkeypatch.setattr(loading, "listed", lambda *_: "listed")
    return tmp_path / "models"


@pytest.fixture
def settings(models: Path) -> StackSettings:
    return load_stack_settings({"models": models, "state_dir": models.parent / "state"})


@pytest.fixture
def deploys(settings: StackSettings) -> Deploys:
    state = StateDirectory(settings.state_dir)
    return lambda version: deploy(settings, state, ("m", version), None, "ops@here")


def served(models: Path) -> dict[str, str]:
    return {file.name: file.read_text() for file in (models / "repository/m/1").iterdir()}


def test_every_step_is_said_and_recorded(deploys: Deploys, models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    deploys("3")
    assert served(models)["network"] == "network 3\n"
    printed = [line.split()[:2] for line in capsys.readouterr().out.splitlines()]
    assert printed == [[step, "ok"] for step in deployment.STEPS]
    record = json.loads((models / "training/.deployments/m/records.jsonl").read_text())
    assert (record["registered"], record["version"], record["outcome"], record["by"]) == (
        "3",
        "1",
        "deployed",
        "ops@here",
    )
    assert [each["step"] for each in record["steps"]] == [*deployment.STEPS]


def test_again_it_is_the_same(deploys: Deploys, models: Path) -> None:
    deploys("3")
    before = served(models)
    assert deploys("3").outcome == "deployed"
    assert served(models) == before
    assert not (models / "training/.deployments/m/1/before").exists()


def fail(monkeypatch: pytest.MonkeyPatch, number: str, models: Path) -> None:
    """Triton, where it is to load this number."""

    def load(*_: object) -> str:
        if served(models).get("network") == f"network {number}\n":
            raise loading.Failed("no memory")
        return "ready"

    monkeypatch.setattr(loading, "load", load)


def test_a_step_that_fails_brings_back_what_was_served(
    deploys: Deploys, models: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fail(monkeypatch, "2", models)
    code = served(models)
    assert deploys("2").outcome == "rolled back"
    assert served(models) == code, "what the checkout trains"
    deploys("1")
    before = served(models)
    assert deploys("2").outcome == "rolled back"
    assert served(models) == before
    said = capsys.readouterr()
    assert "load       failed  no memory\n" in said.err
    assert "roll back  ok      before: m 1 of the registry\n" in said.out


def test_the_alias_that_cannot_be_moved_is_a_step_that_fails(deploys: Deploys, models: Path) -> None:
    (models / "registry-away").touch()
    record = deploys("1")
    assert [(each.step, each.ok) for each in record.steps[-2:]] == [("alias", False), ("roll back", True)]
    assert "network" not in served(models)


def test_what_was_served_is_known_after_a_run_that_was_killed(
    deploys: Deploys, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deploys("1")
    before = served(models)

    def killed(*_: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(loading, "load", killed)
    with pytest.raises(KeyboardInterrupt):
        deploys("2")
    assert served(models) != before
    fail(monkeypatch, "3", models)
    assert deploys("3").outcome == "rolled back"
    assert served(models) == before


def test_going_back_may_fail_and_is_tried_again(
    deploys: Deploys, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deploys("1")
    before = served(models)

    def fails(*_: object) -> str:
        raise loading.Failed("away")

    monkeypatch.setattr(loading, "load", fails)
    record = deploys("2")
    assert [(each.step, each.ok) for each in record.steps[-2:]] == [("load", False), ("roll back", False)]
    assert record.outcome == "failed"
    fail(monkeypatch, "2", models)
    assert deploys("2").outcome == "rolled back"
    assert served(models) == before


def test_what_is_refused_changes_nothing(
    deploys: Deploys, models: Path, settings: StackSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    before = served(models)
    assert deploys("bad").outcome == "failed"
    assert "gate       failed  m fails its gate\n" in capsys.readouterr().err
    with (models / "training/.deployments/lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="another deployment is running"):
            deploys("1")
    assert served(models) == before


@pytest.mark.parametrize(("model", "version"), [("../m", "1"), ("m", "--help"), ("m", "a/b"), ("m", "")])
def test_what_cannot_be_a_name_is_refused(settings: StackSettings, model: str, version: str) -> None:
    with pytest.raises(ConfigError, match="write NAME and VERSION"):
        deploy(settings, StateDirectory(settings.state_dir), (model, version), None, "ops@here")


def test_without_a_triton_nothing_is_fetched(
    settings: StackSettings, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(triton, "registry_says", lambda *_: pytest.fail("asked"))
    record = deploy(settings, StateDirectory(settings.state_dir), ("m", "1"), None, "ops@here")
    assert [(each.step, each.said) for each in record.steps] == [
        ("fetch", "no Triton that `tollgate up` starts answers: start the stack first")
    ]


def test_records_have_room_for_so_many(deploys: Deploys, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deployment, "_MOST_RECORD", 1)
    for number in ("1", "2", "3"):
        deploys(number)
    kept = models / "training/.deployments/m"
    assert [len((kept / name).read_text().splitlines()) for name in ("records.jsonl", "records.old.jsonl")] == [1, 1]
