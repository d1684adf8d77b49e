"""Malignant or benign, from the thirty measurements of the Wisconsin breast cancer data.

Versions differ in what training made: version 2 is a link to this file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import joblib
import numpy as np
from tollgate_models.batch import Batch, answer, numbers
from tollgate_models.labels import Labels


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        self.name, self.version = args["model_name"], args["model_version"]
        self.labels = Labels(self.name, self.version, ("malignant", "benign"))
        self.classifier = joblib.load(Path(args["model_repository"]) / self.version / "classifier.joblib")
        self._predict(Batch(np.zeros((1, 30), np.float32), [""]))  # warm-up

    def execute(self, requests: list[Any]) -> list[Any]:
        return answer(requests, self.name, self.version, _features, self._predict, self.labels)

    def _predict(self, batch: Batch) -> dict[str, np.ndarray]:
        malignant = self.classifier.predict_proba(np.array(batch.rows))[:, 0]
        label = np.where(malignant >= 0.5, "malignant", "benign").astype(object)
        return {"label": label, "malignant": malignant.astype(np.float32)}


def _features(request: Any) -> np.ndarray:
    return numbers(request, "features")
