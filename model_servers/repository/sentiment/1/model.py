"""Sentiment of a text, by VADER's lexicon and rules."""

from __future__ import annotations

from typing import Any

import numpy as np
from tollgate_models.batch import Batch, answer
from tollgate_models.labels import Labels
from tollgate_models.texts import texts
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        self.name, self.version = args["model_name"], args["model_version"]
        self.labels = Labels(self.name, self.version, ("positive", "neutral", "negative"))
        self.analyzer = SentimentIntensityAnalyzer()

    def execute(self, requests: list[Any]) -> list[Any]:
        return answer(requests, self.name, self.version, texts, self._predict, self.labels)

    def _predict(self, batch: Batch) -> dict[str, np.ndarray]:
        scores = [self.analyzer.polarity_scores(text)["compound"] for text in batch.rows]
        return {
            "label": np.array([_label(score) for score in scores], dtype=object),
            "score": np.array(scores, dtype=np.float32),
            "caller": np.array(batch.callers, dtype=object),
        }


def _label(score: float) -> str:
    """The thresholds that VADER's authors give."""
    if score >= 0.05:
        return "positive"
    return "negative" if score <= -0.05 else "neutral"
