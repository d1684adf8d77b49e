"""The rated sentences: what is read of them, and what is held out."""

from __future__ import annotations

import io
import json
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

_FILES = {
    "movieReviewSnippets": "1\t2.5\tA joy.\r\n2\t-1\tDull\r\n3\t-1.5\tA JOY.",
    "amazonReviewSnippets": "1_1\t-0.9\tno picture .\r\n1_2\t0.1\trepost\r\n",
    "nytEditorialSnippets": "7_1\t0\tIt was “Tuesday”.",
}


@pytest.fixture
def prepare(module: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Reads an sdist of ours."""
    found = module("prepare")
    sdist = tmp_path / "sdist.tar.gz"
    inner = _tar({f"hutto_ICWSM_2014/{name}_GroundTruth.txt": text.encode() for name, text in _FILES.items()})
    sdist.write_bytes(_tar({found._INNER: inner}))
    monkeypatch.setattr(found, "_fetch", lambda place: sdist)
    monkeypatch.setattr(found, "SENTENCES", tmp_path / "data" / "sentences.jsonl")
    return found


def _tar(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def test_each_text_is_there_once_with_its_document(prepare: ModuleType) -> None:
    prepare.prepare()
    lines = [json.loads(line) for line in prepare.SENTENCES.read_text().splitlines()]
    assert [(line["document"], line["rating"], line["text"]) for line in lines] == [
        ("movie-1", 2.5, "A joy."),
        ("movie-2", -1.0, "Dull"),
        ("amazon-1", -0.9, "no picture ."),
        ("amazon-1", 0.1, "repost"),
        ("nyt-7", 0.0, "It was “Tuesday”."),
    ]
    assert sorted(prepare.read(held_out=True) + prepare.read(held_out=False), key=lines.index) == lines


def test_feedback_is_learnt_and_never_held_out(prepare: ModuleType, tmp_path: Path) -> None:
    """A text that is among the sentences stays what it is there."""
    said = "a joy.,negative\nFine day,positive\nFine day,positive\nFine day,negative\nBad,negative\nSo so,neutral\n"
    (tmp_path / "feedback.csv").write_text(f"text,label\n{said}")
    prepare.prepare(tmp_path / "feedback.csv")
    lines = [json.loads(line) for line in prepare.SENTENCES.read_text().splitlines()]
    found = {line["text"]: line["rating"] for line in lines if line["source"] == "feedback"}
    assert found == {"Fine day": pytest.approx(2 / 3), "Bad": -2.0, "So so": 0.0}
    assert not any(line["held_out"] for line in lines if line["source"] == "feedback")


@pytest.mark.parametrize(
    ("written", "said"),
    [("a,b\n1,2\n", "no columns text and label"), ("text,label\nx,good\n", ":2: write a label as one")],
)
def test_what_is_no_feedback_is_one_sentence(prepare: ModuleType, tmp_path: Path, written: str, said: str) -> None:
    (tmp_path / "feedback.csv").write_text(written)
    with pytest.raises(SystemExit) as exit_:
        prepare.prepare(tmp_path / "feedback.csv")
    assert said in str(exit_.value)


def test_a_document_is_held_out_whole_and_one_of_five_is(prepare: ModuleType) -> None:
    held_out = sum(prepare._is_held_out(f"movie-{number}", 5) for number in range(5000))
    assert 900 < held_out < 1100
    assert [prepare._is_held_out(f"amazon-{number}", 5) for number in range(1, 9)] == [
        False, False, False, True, False, False, False, False,
    ]  # fmt: skip


def test_what_cannot_be_fetched_is_one_line_and_a_status_of_its_own(
    module: Callable[[str], ModuleType],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    prepare = module("prepare")
    with pytest.raises(SystemExit) as exit_:
        prepare._fetch(tmp_path)
    assert exit_.value.code == prepare.NOT_FETCHED
    said = "the rated sentences cannot be fetched, so there is no sentiment 2: pip says nothing\n"
    assert capsys.readouterr().err == said
