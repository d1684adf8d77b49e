"""The reading guide is true: its files are there, and a cached check passes through the places that it lists."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from ext_authz import check
from ext_authz.edge.authorizer import Authorizer
from ext_authz.edge.response import Responder
from ext_authz.policy.model import Responses
from tests.requests import check_request
from tests.unit.check.scenarios import ALL_WELL, POLICY, bearer, world
from tests.unit.edge.answers import read

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "ext_authz"
GUIDE = (ROOT / "docs/reading-guide.md").read_text()
MOST_PLACES, MOST_LINES, MOST_FILES = 9, 10, 3
HELPERS = {"decision.py", "clock.py", "bounded.py", "phases/context.py", "identity/cache.py", "policy/rights.py"}
"""The ground floor, the context that is filled, and what holds a cache or finds a rule for the place before it."""


def _files(folder: Path) -> Iterator[Path]:
    """Without hidden folders: while environments are made in them, files come and go."""
    for path in folder.iterdir():
        if not path.is_dir():
            yield path
        elif not path.name.startswith("."):
            yield from _files(path)


def test_every_file_that_it_names_is_there() -> None:
    paths = {f"/{path.relative_to(ROOT)}" for path in _files(ROOT)}
    named = re.findall(r"`([\w/]+\.(?:py|lua|md|toml))`", GUIDE)
    assert named
    assert [name for name in named if not any(path.endswith(f"/{name}") for path in paths)] == []


def test_a_page_has_ten_lines_and_names_three_files() -> None:
    for page in GUIDE.split("\n## ")[1:]:
        title, *lines = page.splitlines()
        assert len([line for line in lines if line]) <= MOST_LINES, title
        named = {name.rpartition("/")[2] for name in re.findall(r"`([\w/]+\.\w+)[`:]", page)}
        assert len(named) <= MOST_FILES, title


async def test_a_cached_check_passes_through_the_places_of_the_table() -> None:
    rows = re.findall(r"^\| (\d) \|([^\n]*)", GUIDE, flags=re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, MOST_PLACES + 1))
    places = set(re.findall(r"`(?:ext_authz/)?([\w/]+\.py)`", "".join(row for _, row in rows)))
    checker = world(ALL_WELL, check).decide.__self__  # type: ignore[attr-defined]
    authorizer = Authorizer(checker, Responder("tollgate", Responses(), POLICY.hash))
    message = check_request(token=bearer().removeprefix("Bearer "))
    first, second = [await authorizer.check(message) for _ in range(2)]
    seen: set[str] = set()

    def note(frame: FrameType, _event: str, _argument: object) -> None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(PACKAGE):
            seen.add(str(path.relative_to(PACKAGE)))

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        await authorizer.check(message)
    finally:
        sys.setprofile(before)
    assert (read(first).status.code, read(second).status.code) == (0, 0)
    assert {"check.py", "edge/authorizer.py", "phases/settle_request.py"} <= seen
    assert seen - places <= HELPERS, "the settlement apart, which a double stands in for"
