"""The pipelines of `model_servers/training` in a copy of what they read, as a repository of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.e2e.training.warm import Warm, warm

MODELS = Path(__file__).parents[3] / "model_servers"
TRAINING = MODELS / "training" / ".venv" / "bin"


class Copy:
    """`models` is the copy of `model_servers/`; its environments are ours."""

    _dvc: Warm

    def __init__(self, root: Path) -> None:
        self.models = root / "model_servers"
        self.sentiment = self.models / "training" / "sentiment"
        out = shutil.ignore_patterns(".venv*", "data", ".mlflow", "__pycache__", "tmp", "cache", "SHA256SUMS*")
        shutil.copytree(MODELS, self.models, ignore=out)
        (self.models / ".venvs").symlink_to(MODELS / ".venvs")
        subprocess.run(["git", "init", "--quiet"], cwd=root, check=True)

    def dvc(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return self._dvc.run([*arguments], self.sentiment, **variables)


def run(command: list[str | Path], place: Path, variables: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **variables}
    return subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="package")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Copy]:
    """After `dvc repro`, so that there is a trained model."""
    if not TRAINING.exists():
        pytest.skip("needs the environment of `make training`")
    copy = Copy(tmp_path_factory.mktemp("training"))
    with warm(TRAINING / "python", "dvc.cli", copy.models, DVC_NO_ANALYTICS="1") as copy._dvc:
        ran = copy.dvc("repro", "--no-run-cache")
        if "the rated sentences cannot be fetched" in ran.stderr + ran.stdout:
            pytest.skip("the rated sentences cannot be fetched here")
        assert ran.returncode == 0, ran.stderr
        yield copy
