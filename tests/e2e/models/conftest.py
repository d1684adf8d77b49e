"""Both versions of `sentiment` as training has them: in the environment that serves them, without Triton."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator, Sequence
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

vader, classifier = SentimentIntensityAnalyzer(), Classifier.load(Path(sys.argv[1]))
for line in sys.stdin:
    texts = json.loads(line)
    first = [vader.polarity_scores(text)["compound"] for text in texts]
    print(json.dumps({"1": first, "2": classifier.scores(texts).tolist()}), flush=True)
"""
"""In the environment of the model, whose imports take seconds: it answers a line by a line."""


@pytest.fixture(scope="package")
def trained() -> Path:
    if not (TRAINED / "SHA256SUMS").exists():
        pytest.skip("sentiment 2 is not trained here: make models")
    return TRAINED


@pytest.fixture(scope="package")
def scores(trained: Path) -> Iterator[Callable[[Sequence[str]], dict[str, Scores]]]:
    """Of each version, of these texts."""
    command: list[str | Path] = [PYTHON, "-c", _SCRIPT, trained]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:

        def of(texts: Sequence[str]) -> dict[str, Scores]:
            assert running.stdin
            assert running.stdout
            print(json.dumps(texts), file=running.stdin, flush=True)
            return {version: np.array(found) for version, found in json.loads(running.stdout.readline()).items()}

        yield of
