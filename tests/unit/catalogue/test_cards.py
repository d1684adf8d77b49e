"""The front of a card, and what is wrong with one."""

from __future__ import annotations

import pytest

from ext_authz.catalogue.cards import card_of
from ext_authz.catalogue.entry import Card
from tests.unit.catalogue.world import CARD


def test_a_whole_card() -> None:
    assert card_of(CARD, "m") == Card(
        title="Sentiment of texts",
        description="Is a text glad?",
        license="Apache-2.0",
        keywords=("text", "opinion"),
        tasks=("classification",),
        architecture="logistic regression",
        learning_approach="supervised",
        sources=("https://data.example/reviews",),
        mlflow_run_id="0123456789abcdef0123456789abcdef",
    )


@pytest.mark.parametrize(
    ("text", "card"),
    [
        ("", Card()),
        ("Only text.\n", Card(description="Only text.")),
        ("# A\nB\n", Card(title="A", description="B")),
        ("---\ntitle: Given\n---\n# Other\nB\n", Card(title="Given", description="B")),
        ("---\ntags: [a, a]\nlibrary_name: keras\n---\n", Card(keywords=("a",))),
        ("---\nlicense: see below!\n---\n", Card(license="other")),
        ("---\r\nlicense: MIT\r\n---\r\n# A\r\n", Card(title="A", license="MIT")),
        ("---\n---\nB\n", Card(description="B")),
        ("---\nno end", Card(description="---\nno end")),
    ],
)
def test_parts_of_a_card(text: str, card: Card) -> None:
    assert card_of(text, "m") == card


@pytest.mark.parametrize(
    ("front", "why"),
    [
        ("a: [", "expected the node content"),
        ("- a", "Input should be a valid dictionary"),
        ("tasks: [guessing]", "tasks.0: write one of classification"),
        ("datasets: ['javascript:alert(1)']", "datasets.0: write a URL"),
        ("datasets: ['https://user:secret@x.example/']", "datasets.0: write a URL"),
        ("datasets: ['https://[']", "datasets.0"),
        ('keywords: ["a\\nb"]', "keywords"),
        (f"keywords: [{', '.join(map(str, range(99)))}]", "keywords"),
        ("mlflow_run_id: ../x", "mlflow_run_id"),
        ("title: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
    ],
)
def test_a_bad_front_is_left_out_and_logged(front: str, why: str, caplog: pytest.LogCaptureFixture) -> None:
    assert card_of(f"---\n{front}\n---\n# A\n", "m") == Card(title="A")
    (record,) = caplog.records
    assert (record.model, why in record.detail) == ("m", True), record.detail  # type: ignore[attr-defined]
