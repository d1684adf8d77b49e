"""Fit the classifier to the sentences that are not held out: writes `data/classifier/`."""

from __future__ import annotations

import tomllib
from pathlib import Path

import numpy as np
from prepare import HERE, read
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits
from tollgate_models.sentiment import Classifier, Features

CLASSIFIER = HERE / "data" / "classifier"


def train(into: Path) -> None:
    how = tomllib.loads((HERE / "params.toml").read_text())["train"]
    sentences = [sentence for sentence in read(held_out=False) if sentence["rating"]]
    texts = [sentence["text"] for sentence in sentences]
    ratings = np.array([sentence["rating"] for sentence in sentences])
    features = Features.learn(texts)
    regression = LogisticRegression(C=how["inverse_penalty"], max_iter=500)
    with threadpool_limits(1):  # sums in one order: the same sentences make the same bytes
        regression.fit(features.of(texts), ratings > 0, sample_weight=np.minimum(abs(ratings), how["largest_weight"]))
    into.mkdir(exist_ok=True)
    Classifier(features, regression.coef_[0], float(regression.intercept_[0]), how["band"]).save(into)


if __name__ == "__main__":
    train(CLASSIFIER)
