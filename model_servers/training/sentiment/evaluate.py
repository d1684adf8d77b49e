"""Judge both versions on the held-out sentences: writes `data/metrics.json`, and `data/calibration.csv` for a plot.

Fails where version 2 is not worth serving (`gate` in params.toml).
"""

from __future__ import annotations

import csv
import json
import sys
import tomllib
from collections.abc import Sequence
from typing import Any

import numpy as np
from gate import failures
from prepare import HERE, Sentence, read
from tollgate_models.sentiment import LABELS, Classifier
from train import CLASSIFIER
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

METRICS, CALIBRATION = HERE / "data" / "metrics.json", HERE / "data" / "calibration.csv"
NEUTRAL = 0.5
"""Sentences rated nearer to 0 (of -4 to 4) count as neutral: their raters disagree, or see neither."""
_BAND_OF_VADER = 0.05
_BINS = 10

Metrics = dict[str, Any]


def evaluate(sentences: Sequence[Sentence]) -> None:
    classifier = Classifier.load(CLASSIFIER)
    texts, ratings = [sentence["text"] for sentence in sentences], np.array([s["rating"] for s in sentences])
    sources = np.array([sentence["source"] for sentence in sentences])
    vader = SentimentIntensityAnalyzer()
    first = np.array([vader.polarity_scores(text)["compound"] for text in texts])
    second = classifier.scores(texts)
    metrics = {
        "held_out": len(sentences),
        "v1": measured(first, ratings, sources, _BAND_OF_VADER),
        "v2": measured(second, ratings, sources, classifier.band),
    }
    METRICS.write_text(json.dumps(metrics, indent=2) + "\n")
    _write_calibration(second, ratings)


def measured(scores: np.ndarray, ratings: np.ndarray, sources: np.ndarray, band: float) -> Metrics:
    """`accuracy`: how many of the sentences that are not neutral have a score of their side. A score of 0 counts as
    negative: that is the better way for VADER, which has many."""
    polar = abs(ratings) >= NEUTRAL
    right = (scores > 0) == (ratings > 0)
    labels, rated = labelled(scores, band), labelled(ratings, NEUTRAL)
    of_source = {name: _share(right[polar & (sources == name)]) for name in sorted(set(sources.tolist()))}
    shares = {label: _share(labels == label) for label in LABELS}
    return {
        "accuracy": {**of_source, "all": _share(right[polar])},
        "label_accuracy": _share(labels == rated),
        "label_shares": shares,
    }


def labelled(scores: np.ndarray, band: float) -> np.ndarray:
    return np.select([scores >= band, scores <= -band], ["positive", "negative"], "neutral")


def _share(holds: np.ndarray) -> float:
    return round(float(np.mean(holds)), 4)


def _write_calibration(scores: np.ndarray, ratings: np.ndarray) -> None:
    """Of the sentences that are not neutral: what share is positive where the classifier says so."""
    polar = abs(ratings) >= NEUTRAL
    said, positive = (scores[polar] + 1) / 2, ratings[polar] > 0
    tenth = np.minimum((said * _BINS).astype(int), _BINS - 1)
    with CALIBRATION.open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["said", "positive"])
        for number in sorted(set(tenth.tolist())):
            rows.writerow([_share(said[tenth == number]), _share(positive[tenth == number])])


if __name__ == "__main__":
    evaluate(read(held_out=True))
    gate = tomllib.loads((HERE / "params.toml").read_text())["gate"]
    if found := failures(json.loads(METRICS.read_text()), gate):
        sys.exit(f"sentiment 2 fails its gate: {'; '.join(found)}")
