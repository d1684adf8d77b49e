"""Sentiment of a text, by TF-IDF and logistic regression: what `training/sentiment` exports into this directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from tollgate_models.batch import Batch, answer
from tollgate_models.drift import Drift
from tollgate_models.labels import Labels
from tollgate_models.sentiment import LABELS, Classifier
from tollgate_models.texts import texts


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        self.name, self.version = args["model_name"], args["model_version"]
        self.labels = Labels(self.name, self.version, LABELS)
        here = Path(args["model_repository"]) / self.version
        self.classifier = Classifier.load(here)
        judged = json.loads((here / "metrics.json").read_bytes())
        self.drift = Drift(self.name, self.version, judged["v2"]["label_shares"])
        self.classifier.scores(["warm-up"])

    def execute(self, requests: list[Any]) -> list[Any]:
        return answer(requests, self.name, self.version, texts, self._predict, self.labels)

    def _predict(self, batch: Batch) -> dict[str, np.ndarray]:
        scores = self.classifier.scores(batch.rows)
        labels = self.classifier.labels(scores).astype(object)
        self.drift.note(labels)
        return {
            "label": labels,
            "score": scores.astype(np.float32),
            "caller": np.array(batch.callers, dtype=object),
        }
