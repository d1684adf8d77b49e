"""Sentiment of a text, by VADER's lexicon and rules."""

from __future__ import annotations

from typing import Any

import numpy as np
from tollgate_models.batch import Batch, Refused, answer
from tollgate_models.labels import Labels
from tollgate_models.texts import texts
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

MOST_WORDS = 5000
"""Of the texts of one request, together: VADER takes time in the square of them. It reads each emoji as some words."""


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        self.name, self.version = args["model_name"], args["model_version"]
        self.labels = Labels(self.name, self.version, ("positive", "neutral", "negative"))
        self.analyzer = SentimentIntensityAnalyzer()
        self.emojis = {emoji: len(name.split()) for emoji, name in self.analyzer.emojis.items()}
        self._predict(Batch(["warm-up"], [""]))

    def execute(self, requests: list[Any]) -> list[Any]:
        return answer(requests, self.name, self.version, self._texts, self._predict, self.labels)

    def _texts(self, request: Any) -> np.ndarray:
        found = texts(request)
        words = sum(len(text.split()) + sum(self.emojis.get(letter, 0) for letter in text) for text in found)
        if words > MOST_WORDS:
            raise Refused(f"text has more than {MOST_WORDS} words, an emoji for some of them: send less at once")
        return found

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
