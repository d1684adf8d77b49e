"""Pages about moving here have a row for each feature, which leads somewhere or says that it is not here."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MOVING = ROOT / "docs" / "moving"
FEATURES = {
    "ai-ml-api-server": 10,
    "sentiment-analyzer": 11,
    "mlreef": 8,
    "eoepca-sharinghub": 10,
    "asap-sentiment-api": 9,
}
"""How many rows a page has."""
_LINK = re.compile(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)")
_HEADING = re.compile(r"^#{1,3} (.+)$", re.MULTILINE)


def rows(page: str) -> list[list[str]]:
    """Number, what it is there, what it is here, what differs."""
    lines = (MOVING / f"{page}.md").read_text().splitlines()
    cells = ([cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if re.match(r"\| \d", line))
    return [*cells]


def anchors(file: Path) -> set[str]:
    """As Markdown makes them of headings."""
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in _HEADING.findall(file.read_text())
    }


def test_there_is_a_page_for_each_and_the_index_lists_them() -> None:
    assert {file.stem for file in MOVING.glob("*.md")} == {*FEATURES, "README"}
    assert re.findall(r"^\| \[[^]]+\]\(([\w-]+)\.md\)", (MOVING / "README.md").read_text(), re.MULTILINE) == [*FEATURES]


@pytest.mark.parametrize(("page", "count"), FEATURES.items())
def test_every_feature_has_a_row_that_leads_somewhere(page: str, count: int) -> None:
    found = rows(page)
    assert [row[0] for row in found] == [str(number) for number in range(1, count + 1)]
    assert [row for row in found if len(row) != 4 or not all(row)] == []
    assert [row[0] for row in found if not (_LINK.search(row[2]) or row[2] == "not here")] == []


@pytest.mark.parametrize("page", [*FEATURES, "README"])
def test_links_lead_to_pages_and_headings_that_are_there(page: str) -> None:
    file = MOVING / f"{page}.md"
    for name, anchor in _LINK.findall(file.read_text()):
        target = (MOVING / name).resolve()
        assert target.is_file(), name
        assert not anchor or anchor in anchors(target), f"{name}#{anchor}"
