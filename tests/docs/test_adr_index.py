"""The index of decisions lists every one, and links to nothing that is not there."""

from __future__ import annotations

import re
from pathlib import Path

ADR = Path(__file__).parents[2] / "docs" / "adr"


def rows() -> dict[str, str]:
    """File to row."""
    return dict(re.findall(r"^\| \[\d+\]\(([^)]+)\) (.+)$", (ADR / "README.md").read_text(), re.MULTILINE))


def test_the_index_lists_every_decision() -> None:
    assert [*rows()] == sorted(path.name for path in ADR.glob("0*.md"))


def test_superseded_decisions_are_marked() -> None:
    superseded = {path.name for path in ADR.glob("0*.md") if "Status: superseded" in path.read_text()}
    assert {name for name, row in rows().items() if "| superseded" in row} == superseded
