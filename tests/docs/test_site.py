"""`make docs` builds the site without a warning; it loads nothing from elsewhere, and links to it from outside work."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_LOADED = re.compile(
    r"""<(?:script|img|link(?! rel="canonical"))\b[^>]*(?:src|href)="(?:https?:)?//[^"]*"|url\(["']?(?:https?:)?//"""
)
OUTSIDE = [ROOT / name for name in ("README.md", "CHANGELOG.md")]


@pytest.fixture(scope="module")
def site() -> Path:
    done = subprocess.run(
        ["make", "--no-print-directory", "docs"], check=False, cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return ROOT / Path(done.stdout.splitlines()[-1]).parent


def test_it_has_a_search_and_loads_nothing_from_elsewhere(site: Path) -> None:
    assert (site / "searchindex.js").exists()
    files = [*site.rglob("*.html"), *site.rglob("*.css")]
    assert len(files) > len([*ROOT.glob("docs/**/*.md")])
    assert [file.name for file in files if _LOADED.search(file.read_text())] == []


@pytest.mark.parametrize("page", OUTSIDE, ids=lambda page: page.name)
def test_links_from_outside_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)(?:#([^)]*))?\)", page.read_text())
    assert [name for name, _ in links if not (page.parent / name).exists()] == []
