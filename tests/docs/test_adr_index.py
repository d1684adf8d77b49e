"""The index of decisions lists every one, and links to nothing that is not there."""

from __future__ import annotations

import re
from pathlib import Path

ADR = Path(__file__).parents[2] / "docs" / "adr"


def test_the_index_lists_every_decision() -> None:
    linked = re.findall(r"^\| \[\d+\]\(([^)]+)\)", (ADR / "README.md").read_text(), re.MULTILINE)
    assert linked == sorted(path.name for path in ADR.glob("0*.md"))
