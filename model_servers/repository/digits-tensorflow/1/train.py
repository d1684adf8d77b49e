"""Train a small network of Keras: `train.py DIRECTORY` writes it as a SavedModel."""

from __future__ import annotations

import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from tollgate_models.training import accept, split_digits


def train(directory: Path) -> None:
    """The accuracy is that on a quarter of the data that training did not see."""
    keras.utils.set_random_seed(0)
    tf.config.experimental.enable_op_determinism()
    seen, unseen, seen_digits, unseen_digits = split_digits()
    layers = [
        *(keras.layers.Input((64,)), keras.layers.Rescaling(1 / 16)),
        *(keras.layers.Dense(64, "relu"), keras.layers.Dense(10, "softmax")),
    ]
    network = keras.Sequential(layers)
    network.compile("adam", "sparse_categorical_crossentropy")
    network.fit(seen, seen_digits, epochs=40, verbose=0)
    found = network.predict(unseen, verbose=0).argmax(axis=1)
    accept(directory, float(np.mean(found == unseen_digits)), least=0.95)
    network.export(directory / "network", verbose=False)


if __name__ == "__main__":
    train(Path(sys.argv[1]))
