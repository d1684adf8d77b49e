"""Train a neural network of scikit-learn and export it to ONNX: `train.py DIRECTORY`."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnxruntime
from skl2onnx import convert_sklearn
from skl2onnx.common.data_types import FloatTensorType
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tollgate_models.training import accept, split_digits


def train(directory: Path) -> None:
    """The accuracy is that of the exported network, on a quarter of the data that training did not see."""
    seen, unseen, seen_digits, unseen_digits = split_digits()
    network = make_pipeline(StandardScaler(), MLPClassifier((64,), random_state=0, max_iter=400))
    network.fit(seen, seen_digits)
    kinds = [("pixels", FloatTensorType([None, 64]))]
    exported = convert_sklearn(network, initial_types=kinds, options={"zipmap": False}).SerializeToString()
    session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])
    found, _ = session.run(None, {"pixels": unseen})
    accept(directory, float(np.mean(found == unseen_digits)), least=0.95)
    (directory / "network.onnx").write_bytes(exported)


if __name__ == "__main__":
    train(Path(sys.argv[1]))
