"""The digit that was written by hand, by a network in TensorFlow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tollgate_models.batch import Batch, answer, numbers
from tollgate_models.labels import Labels


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        self.name, self.version = args["model_name"], args["model_version"]
        self.labels = Labels(self.name, self.version, "0123456789")
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
        self.network = tf.saved_model.load(str(Path(args["model_repository"]) / self.version / "network"))
        self._predict(Batch(np.zeros((1, 64), np.float32), [""]))  # warm-up

    def execute(self, requests: list[Any]) -> list[Any]:
        return answer(requests, self.name, self.version, _pixels, self._predict, self.labels)

    def _predict(self, batch: Batch) -> dict[str, np.ndarray]:
        probabilities = self.network.serve(tf.constant(np.array(batch.rows))).numpy()
        digits = probabilities.argmax(axis=1)
        return {"label": digits.astype(str).astype(object), "confidence": probabilities.max(axis=1)}


def _pixels(request: Any) -> np.ndarray:
    return numbers(request, "pixels", least=0, most=16)
