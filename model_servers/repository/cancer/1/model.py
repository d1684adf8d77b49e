"""Malignant or benign, from the thirty measurements of the Wisconsin breast cancer data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import joblib
import numpy as np
import triton_python_backend_utils as triton
from tollgate_models.batch import Batch, Refused, answer
from tollgate_models.labels import Labels


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        self.name, self.version = args["model_name"], args["model_version"]
        self.labels = Labels(self.name, self.version, ("malignant", "benign"))
        self.classifier = joblib.load(Path(args["model_repository"]) / self.version / "classifier.joblib")

    def execute(self, requests: list[Any]) -> list[Any]:
        return answer(requests, self.name, self.version, _features, self._predict, self.labels)

    def _predict(self, batch: Batch) -> dict[str, np.ndarray]:
        malignant = self.classifier.predict_proba(np.array(batch.rows))[:, 0]
        label = np.where(malignant >= 0.5, "malignant", "benign").astype(object)
        return {"label": label, "malignant": malignant.astype(np.float32)}


def _features(request: Any) -> np.ndarray:
    rows = triton.get_input_tensor_by_name(request, "features").as_numpy()
    if not np.isfinite(rows).all():
        raise Refused("features must be finite numbers")
    return rows
