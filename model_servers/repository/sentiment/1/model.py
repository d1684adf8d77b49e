"""Sentiment of a text, by VADER's lexicon and rules."""

from __future__ import annotations

from typing import Any

import numpy as np
import triton_python_backend_utils as triton
from tollgate_models.batch import Batch, Refused, answer
from tollgate_models.labels import Labels
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

# VADER takes time in the square of the words' number; a tweet has 280 characters, a long review some thousands.
LONGEST_TEXT = 10_000


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        self.name, self.version = args["model_name"], args["model_version"]
        self.labels = Labels(self.name, self.version, ("positive", "neutral", "negative"))
        self.analyzer = SentimentIntensityAnalyzer()

    def execute(self, requests: list[Any]) -> list[Any]:
        return answer(requests, self.name, self.version, _texts, self._predict, self.labels)

    def _predict(self, batch: Batch) -> dict[str, np.ndarray]:
        scores = [self.analyzer.polarity_scores(text)["compound"] for text in batch.rows]
        return {
            "label": np.array([_label(score) for score in scores], dtype=object),
            "score": np.array(scores, dtype=np.float32),
            "caller": np.array(batch.callers, dtype=object),
        }


def _texts(request: Any) -> np.ndarray:
    raw = triton.get_input_tensor_by_name(request, "text").as_numpy().reshape(-1)
    try:
        texts = [value.decode() for value in raw]
    except UnicodeDecodeError:
        raise Refused("text is not UTF-8") from None
    if any(len(text) > LONGEST_TEXT for text in texts):
        raise Refused(f"text is longer than {LONGEST_TEXT} characters")
    return np.array(texts, dtype=object)


def _label(score: float) -> str:
    """The thresholds that VADER's authors give."""
    if score >= 0.05:
        return "positive"
    return "negative" if score <= -0.05 else "neutral"
