"""From what training exported over MLflow's registry into Triton's repository."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from devstack.stack.child import package_directory
from tests.e2e.training.conftest import MODELS, TRAINING, Copy, run
from tests.e2e.training.warm import Warm, warm

pytestmark = [pytest.mark.training, pytest.mark.timeout(600)]


class Registered:
    """`sentiment` 1 in a registry of its own, and commands of it."""

    def __init__(self, copy: Copy, commands: Warm) -> None:
        self.models, self.sentiment = copy.models, copy.sentiment
        self._commands = commands

    def run(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return self._commands.run([*arguments], self.models, **variables)


@pytest.fixture(scope="module")
def registered(copy: Copy) -> Iterator[Registered]:
    with warm(TRAINING / "python", "training.registry", copy.models, MLFLOW_DISABLE_TELEMETRY="true") as commands:
        registered = Registered(copy, commands)
        made = registered.run("register", "sentiment")
        assert made.stdout == "registered sentiment 1, alias candidate\n", made.stderr
        yield registered


@pytest.fixture
def served(registered: Registered) -> Iterator[Path]:
    """Where a promoted model goes; empty again afterwards."""
    place = registered.models / "repository/sentiment/2"
    before = set(place.iterdir())
    yield place
    for file in set(place.iterdir()) - before:
        file.unlink()


def _keys(place: Path, name: str) -> tuple[str, str]:
    private, public = place / f"{name}.pem", place / f"{name}.pub.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", private], check=True)
    subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public], check=True)
    return str(private), str(public)


def _build(of: Registered, out: Path, public: str) -> subprocess.CompletedProcess[str]:
    wheel = package_directory("pytriton", "") / "tritonserver"
    command: list[str | Path] = [MODELS / ".venvs/sklearn/bin/python", "-m", "tollgate_models.build"]
    return run([*command, of.models / "repository", out, wheel], of.models, {"TOLLGATE_MODELS_PUBLIC_KEY": public})


def test_a_promoted_model_is_signed_and_built_with_the_key_of_who_signed_it(
    registered: Registered, served: Path, tmp_path: Path
) -> None:
    private, public = _keys(tmp_path, "ours")
    done = registered.run("promote", "sentiment", "candidate", TOLLGATE_MODELS_SIGNING_KEY=private)
    assert done.stdout == f"promoted sentiment 1 to {served}, signed\n", done.stderr
    assert json.loads((served / "promoted.json").read_text())["registered"] == "sentiment 1"
    assert "Rotten Tomatoes" in (served / "model-card.md").read_text()
    assert subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=served, check=False).returncode == 0
    built = _build(registered, tmp_path / "out", public)
    assert built.returncode == 0, built.stderr
    assert (tmp_path / "out/models/sentiment/2/weights.npz").is_file()
    refused = _build(registered, tmp_path / "other", _keys(tmp_path, "theirs")[1])
    assert refused.returncode == 1
    assert "is signed with another key than that of TOLLGATE_MODELS_PUBLIC_KEY" in refused.stderr


def test_the_alias_of_what_is_served_is_a_name_for_it(registered: Registered, served: Path) -> None:
    assert registered.run("promote", "sentiment", "1").returncode == 0
    done = registered.run("promote", "sentiment", "served")
    assert done.stdout.startswith("promoted sentiment 1 to ")
    assert "not signed: TOLLGATE_MODELS_SIGNING_KEY names no key" in done.stdout


def test_a_key_that_is_none_leaves_what_is_served(registered: Registered, served: Path, tmp_path: Path) -> None:
    assert registered.run("promote", "sentiment", "1").returncode == 0
    before = {file.name: file.read_bytes() for file in served.iterdir()}
    key = str(tmp_path / "nothing.pem")
    refused = registered.run("promote", "sentiment", "1", TOLLGATE_MODELS_SIGNING_KEY=key)
    assert refused.returncode == 1
    assert f"TOLLGATE_MODELS_SIGNING_KEY: {key} has no Ed25519 private key" in refused.stderr
    assert {file.name: file.read_bytes() for file in served.iterdir()} == before


def test_a_model_that_fails_its_gate_is_not_promoted(registered: Registered, served: Path) -> None:
    """That of the checkout: it may have been raised since the model was registered."""
    parameters = registered.sentiment / "params.toml"
    before = parameters.read_text()
    parameters.write_text(before.replace("movie_points = 0.15", "movie_points = 0.3"))
    try:
        refused = registered.run("promote", "sentiment", "1")
    finally:
        parameters.write_text(before)
    assert refused.returncode == 1
    said = r"sentiment 1 of the registry fails its gate: right in 8\d\.\d% of movie sentences, version 1 in 66\.0%"
    assert re.search(said, refused.stderr)
    assert not (served / "SHA256SUMS").exists()


def test_what_was_changed_in_the_store_is_not_promoted(registered: Registered, served: Path) -> None:
    (stored,) = (registered.models / "training/.mlflow/artefacts").rglob("metrics.json")
    before = stored.read_text()
    stored.write_text(before.replace('"movie": 0.8', '"movie": 0.9'))
    try:
        refused = registered.run("promote", "sentiment", "1")
    finally:
        stored.write_text(before)
    assert refused.returncode == 1
    assert "metrics.json is not what SHA256SUMS says" in refused.stderr
    assert not (served / "SHA256SUMS").exists()


@pytest.mark.parametrize(("named", "said"), [(False, "which SHA256SUMS does not name"), (True, "code is that of the")])
def test_code_in_a_run_is_not_promoted(registered: Registered, served: Path, *, named: bool, said: str) -> None:
    """Who may register a model is not whose code Triton runs."""
    (sums,) = (registered.models / "training/.mlflow/artefacts").rglob("SHA256SUMS")
    before, code = sums.read_text(), sums.with_name("model.py")
    code.write_text("import os")
    if named:
        sums.write_text(f"{before}{hashlib.sha256(b'import os').hexdigest()}  model.py\n")
    try:
        refused = registered.run("promote", "sentiment", "1")
    finally:
        code.unlink()
        sums.write_text(before)
    assert (refused.returncode, f"the run has model.py, {said}" in refused.stderr.replace("and ", "")) == (1, True)
    assert (served / "model.py").read_text() != "import os"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("promote", "sentiment", "7"), "has no version or alias '7' of 'sentiment'; it has 1"),
        (("promote", "sentiment", "best"), "has no version or alias 'best' of 'sentiment'; it has 1"),
        (("promote", "sentiment", "1", "--to", "1"), "has no version 1 that training fills"),
        (("promote", "sentiment", "1", "--to", "../../cancer/1"), "has no version ../../cancer/1 that training fills"),
        (("promote", "../cancer", "1"), "'../cancer' is not trained by a pipeline; these are: digits, sentiment"),
        (("register", "cancer"), "'cancer' is not trained by a pipeline; these are: digits, sentiment"),
    ],
)
def test_what_there_is_not_is_one_sentence(registered: Registered, arguments: tuple[str, ...], said: str) -> None:
    refused = registered.run(*arguments)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert said in refused.stderr
    assert "Traceback" not in refused.stderr
