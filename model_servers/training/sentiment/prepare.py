"""Fetch the sentences that people rated, and hold some documents out: writes `data/sentences.jsonl`.

They are from the sdist of vaderSentiment, each rated by 20 people (Hutto and Gilbert, ICWSM 2014). Rotten Tomatoes,
Amazon and The New York Times have the rights in the texts: they are never committed, and never in an artefact.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SENTENCES = HERE / "data" / "sentences.jsonl"
NOT_FETCHED = 3
"""Exit status: not an error of this code or of the machine, so that version 1 can serve."""

_INNER = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
_SOURCES = {"movie": "movieReviewSnippets", "amazon": "amazonReviewSnippets", "nyt": "nytEditorialSnippets"}
"""Not the tweets: VADER is right in 98 % of them, as one is about what one was tuned on."""

FEEDBACK = "feedback"
_RATINGS = {"positive": 2.0, "neutral": 0.0, "negative": -2.0}
"""As much as a sentence counts on which its raters are agreed. As there, what is rated 0 is not learnt."""

Sentence = dict[str, Any]


def prepare(feedback: Path | None = None) -> None:
    """`feedback`: what people said of predictions, which is learnt beside them."""
    with tempfile.TemporaryDirectory() as place:
        sentences = chain(_sentences(_fetch(Path(place))), _said(feedback) if feedback else ())
        found = list(_unique(sentences))
    one_of = tomllib.loads((HERE / "params.toml").read_text())["prepare"]["one_of"]
    SENTENCES.parent.mkdir(exist_ok=True)
    with SENTENCES.open("w") as file:
        for sentence in found:
            # No feedback is held out: figures of models with it and without can be compared.
            held_out = sentence["source"] != FEEDBACK and _is_held_out(sentence["document"], one_of)
            file.write(json.dumps({**sentence, "held_out": held_out}) + "\n")


def _fetch(place: Path) -> Path:
    """By pip, from wherever this machine has its packages; pip compares the hash."""
    options = ["--no-deps", "--no-binary", "vaderSentiment", "--require-hashes", "--retries", "1", "--quiet"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", place, "--requirement", HERE / "corpus.txt"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode:
        said = ran.stderr.strip().splitlines() or ["pip says nothing"]
        sys.stderr.write(f"the rated sentences cannot be fetched, so there is no sentiment 2: {said[-1]}\n")
        sys.exit(NOT_FETCHED)
    return next(place.glob("*.tar.gz"))


def _sentences(sdist: Path) -> Iterator[Sentence]:
    with tarfile.open(sdist) as outer:
        inner = outer.extractfile(_INNER).read()
    with tarfile.open(fileobj=io.BytesIO(inner)) as files:
        for source, name in _SOURCES.items():
            text = files.extractfile(f"hutto_ICWSM_2014/{name}_GroundTruth.txt").read().decode()
            yield from (_sentence(source, line) for line in text.split("\r\n") if line)


def _sentence(source: str, line: str) -> Sentence:
    """Of a line `DOCUMENT_NUMBER RATING TEXT`; a sentence about a movie has a number only, and is a document."""
    number, rating, text = line.split("\t")
    document = f"{source}-{number.partition('_')[0]}"
    return {"source": source, "document": document, "rating": float(rating), "text": text.strip()}


def _said(feedback: Path) -> Iterator[Sentence]:
    """Of an export with the columns `text` and `label`. Each text is rated by the mean of what was said of it."""
    ratings: dict[str, list[float]] = {}
    with feedback.open(newline="") as file:
        rows = csv.DictReader(file)
        if not {"text", "label"} <= {*(rows.fieldnames or ())}:
            sys.exit(
                f"{feedback}: it has no columns text and label: write it with python -m applications.sentiment export"
            )
        for row in rows:
            if row["label"] not in _RATINGS:
                sys.exit(f"{feedback}:{rows.line_num}: write a label as one of {', '.join(_RATINGS)}")
            ratings.setdefault(row["text"].strip(), []).append(_RATINGS[row["label"]])
    for number, (text, said) in enumerate(ratings.items()):
        document = f"{FEEDBACK}-{number}"
        yield {"source": FEEDBACK, "document": document, "rating": sum(said) / len(said), "text": text}


def _unique(sentences: Iterator[Sentence]) -> Iterator[Sentence]:
    """The same text must not be both learnt and held out."""
    seen = set()
    for sentence in sentences:
        if (text := sentence["text"].lower()) not in seen:
            seen.add(text)
            yield sentence


def _is_held_out(document: str, one_of: int) -> bool:
    """By a hash: a document stays where it is, whatever comes beside it."""
    return int(hashlib.sha256(document.encode()).hexdigest(), 16) % one_of == 0


def read(*, held_out: bool) -> list[Sentence]:
    """What the later stages take."""
    sentences = (json.loads(line) for line in SENTENCES.read_text().splitlines())
    return [sentence for sentence in sentences if sentence["held_out"] == held_out]


if __name__ == "__main__":
    prepare(*map(Path, sys.argv[1:2]))
