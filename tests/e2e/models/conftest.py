"""Both versions of `sentiment` as training has them: in the environment that serves them, without Triton."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

MODELS = Path(__file__).parents[3] / "model_servers"
PYTHON = MODELS / ".venvs/sklearn/bin/python"
TRAINED = MODELS / "repository/sentiment/2"

Scores = NDArray[np.float64]
Score = Callable[[Sequence[str]], Scores]

_SCRIPT = """
import json, sys
from pathlib import Path
from tollgate_models.sentiment import Classifier
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

texts, vader = json.load(sys.stdin), SentimentIntensityAnalyzer()
first = [vader.polarity_scores(text)["compound"] for text in texts]
json.dump({"1": first, "2": Classifier.load(Path(sys.argv[1])).scores(texts).tolist()}, sys.stdout)
"""


@pytest.fixture(scope="session")
def trained() -> Path:
    if not (TRAINED / "SHA256SUMS").exists():
        pytest.skip("sentiment 2 is not trained here: make models")
    return TRAINED


@pytest.fixture(scope="session")
def scores(trained: Path) -> Callable[[Sequence[str]], dict[str, Scores]]:
    """Of each version, of these texts."""

    def of(texts: Sequence[str]) -> dict[str, Scores]:
        command: list[str | Path] = [PYTHON, "-c", _SCRIPT, trained]
        ran = subprocess.run(command, input=json.dumps(texts), capture_output=True, text=True, check=True)
        return {version: np.array(found) for version, found in json.loads(ran.stdout).items()}

    return of
