"""The classifier of `sentiment` 2, one code where it is trained, judged and served.

Its artefact is data, no pickle: reading it runs nothing, whatever is in it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix, hstack
from sklearn.feature_extraction.text import TfidfVectorizer

LABELS = ("positive", "neutral", "negative")
NUMBERS, REST = "weights.npz", "classifier.json"
"""The files of an artefact."""

FEATURES = 1
"""Another number where this code makes other features of a text: it reads only artefacts that it was made for."""
_NEGATED = 4
"""So many words after a negation, at most: a clause ends it too."""
_PIECE = re.compile(r"\w[\w']*|[.,;:!?]")
_NEGATION = re.compile(r"not|no|never|nor|cannot|without|\w+n't")


def words(text: str) -> list[str]:
    """In lower case, `!` and `?` among them; `not_` is put before those that are negated."""
    found, left = [], 0
    for piece in _PIECE.findall(text.lower().replace("\u2019", "'")):
        if piece in ".,;:!?":
            left = 0
        found.append(f"not_{piece}" if left and not _NEGATION.fullmatch(piece) else piece)
        left = _NEGATED if _NEGATION.fullmatch(piece) else max(0, left - 1)
    return [word for word in found if word not in ".,;:"]


def affirmed(text: str) -> str:
    """Without the words that are negated: pieces of `wonderful` would outweigh `not_wonderful`, which is rare."""
    return " ".join(word for word in words(text) if not word.startswith("not_"))


_HOW = {
    "words": {"ngram_range": (1, 2), "tokenizer": words, "token_pattern": None, "lowercase": False, "min_df": 2},
    "characters": {"ngram_range": (2, 5), "analyzer": "char_wb", "preprocessor": affirmed, "min_df": 4},
}


class Features:
    """TF-IDF of words and pairs of words, negation marked, beside that of 2 to 5 characters of the others."""

    def __init__(self, vectorizers: dict[str, TfidfVectorizer]) -> None:
        self.vectorizers = vectorizers

    @classmethod
    def learn(cls, texts: Sequence[str]) -> Features:
        return cls({name: TfidfVectorizer(sublinear_tf=True, **how).fit(texts) for name, how in _HOW.items()})

    @classmethod
    def known(cls, vocabularies: dict[str, list[str]], idf: dict[str, np.ndarray]) -> Features:
        vectorizers = {}
        for name, how in _HOW.items():
            vectorizers[name] = TfidfVectorizer(sublinear_tf=True, vocabulary=vocabularies[name], **how)
            vectorizers[name].idf_ = idf[name]
        return cls(vectorizers)

    def of(self, texts: Sequence[str]) -> csr_matrix:
        """A row for each text."""
        return hstack([vectorizer.transform(texts) for vectorizer in self.vectorizers.values()], format="csr")


@dataclass(frozen=True)
class Classifier:
    features: Features
    weights: np.ndarray
    bias: float
    band: float
    """Texts with a score nearer to 0 than this are neutral."""

    def scores(self, texts: Sequence[str]) -> np.ndarray:
        """From -1, surely negative, to 1; 0 for a text without any known word or piece of a word."""
        features = self.features.of(texts)
        scores = np.tanh((features @ self.weights + self.bias) / 2)  # twice the probability of positive, less 1
        return np.where(np.diff(features.indptr) == 0, 0, scores)

    def labels(self, scores: np.ndarray) -> np.ndarray:
        return np.select([scores >= self.band, scores <= -self.band], ["positive", "negative"], "neutral")

    def save(self, directory: Path) -> None:
        of = self.features.vectorizers
        idf = {name: vectorizer.idf_.astype(np.float32) for name, vectorizer in of.items()}
        np.savez_compressed(directory / NUMBERS, weights=self.weights.astype(np.float32), **idf)
        vocabularies = {name: vectorizer.get_feature_names_out().tolist() for name, vectorizer in of.items()}
        rest = {"features": FEATURES, "band": self.band, "bias": self.bias, "vocabularies": vocabularies}
        (directory / REST).write_bytes(json.dumps(rest, ensure_ascii=False).encode())

    @classmethod
    def load(cls, directory: Path) -> Classifier:
        rest = json.loads((directory / REST).read_bytes())  # UTF-8, in whatever locale Triton runs
        if rest["features"] != FEATURES:
            raise ValueError(
                f"{directory} is made for features {rest['features']}, this code makes {FEATURES}: train it"
            )
        with np.load(directory / NUMBERS) as numbers:  # allow_pickle is off
            features = Features.known(rest["vocabularies"], {name: numbers[name] for name in _HOW})
            return cls(features, numbers["weights"], rest["bias"], rest["band"])
