"""The digit that was written by hand, by a convolutional network in PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from tollgate_models.batch import Batch, answer, numbers
from tollgate_models.labels import Labels


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        self.name, self.version = args["model_name"], args["model_version"]
        self.labels = Labels(self.name, self.version, "0123456789")
        torch.set_num_threads(1)
        self.network = torch.jit.load(str(Path(args["model_repository"]) / self.version / "network.pt"))
        for _ in range(3):  # warm-up: TorchScript compiles in its first calls
            self._predict(Batch(np.zeros((1, 64), np.float32), [""]))

    def execute(self, requests: list[Any]) -> list[Any]:
        return answer(requests, self.name, self.version, _pixels, self._predict, self.labels)

    def _predict(self, batch: Batch) -> dict[str, np.ndarray]:
        with torch.inference_mode():
            logits = self.network(torch.from_numpy(np.array(batch.rows) / np.float32(16)))
        confidence, digits = logits.softmax(dim=1).max(dim=1)
        return {"label": digits.numpy().astype(str).astype(object), "confidence": confidence.numpy()}


def _pixels(request: Any) -> np.ndarray:
    return numbers(request, "pixels", least=0, most=16)
