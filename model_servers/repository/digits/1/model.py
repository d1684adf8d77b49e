"""The digit that was written by hand, by a network in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from tollgate_models.batch import Batch, answer, numbers
from tollgate_models.labels import Labels


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        self.name, self.version = args["model_name"], args["model_version"]
        self.labels = Labels(self.name, self.version, "0123456789")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # it is small; threads only wait for each other
        network = Path(args["model_repository"]) / self.version / "network.onnx"
        self.session = onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])
        self._predict(Batch(np.zeros((1, 64), np.float32), [""]))  # warm-up

    def execute(self, requests: list[Any]) -> list[Any]:
        return answer(requests, self.name, self.version, _pixels, self._predict, self.labels)

    def _predict(self, batch: Batch) -> dict[str, np.ndarray]:
        digits, probabilities = self.session.run(None, {"pixels": np.array(batch.rows)})
        return {"label": digits.astype(str).astype(object), "confidence": probabilities.max(axis=1)}


def _pixels(request: Any) -> np.ndarray:
    return numbers(request, "pixels", least=0, most=16)
