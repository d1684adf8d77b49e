"""Miles per gallon of a car, from its weight and power, by a linear model in R."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from tollgate_models.batch import Batch, answer, numbers
from tollgate_models.rscript import Rscript


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        self.name, self.version = args["model_name"], args["model_version"]
        here = Path(args["model_repository"]) / self.version
        self.process = Rscript(here / "serve.R", here / "model.rds")
        self._predict(Batch(np.array([[3, 150]], np.float32), [""]))  # warm-up

    def execute(self, requests: list[Any]) -> list[Any]:
        return answer(requests, self.name, self.version, _cars, self._predict)

    def finalize(self) -> None:
        self.process.end()

    def _predict(self, batch: Batch) -> dict[str, np.ndarray]:
        return {"mpg": self.process.ask(np.array(batch.rows)).astype(np.float32)}


def _cars(request: Any) -> np.ndarray:
    """Only what is like the cars of the data: the model is a plane."""
    return np.hstack([numbers(request, "weight", least=1, most=6), numbers(request, "horsepower", least=50, most=350)])
