"""Every policy of the cookbook is good, without a warning, and passes the tests that stand beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ext_authz.policy.load import examine, load_policy
from ext_authz.policytool.cases import read_cases
from ext_authz.policytool.runner import lines, run
from ext_authz.policytool.warnings import warnings_of
from tests.fuzz.policies import ENVIRON, ROOT

COOKBOOK = ROOT / "docs" / "cookbook"
FOLDERS = sorted(file.parent for file in COOKBOOK.glob("*/policy.yaml"))


@pytest.fixture(params=FOLDERS, ids=lambda folder: folder.name)
def folder(request: pytest.FixtureRequest) -> Path:
    found: Path = request.param
    return found


def test_there_are_a_dozen_and_the_index_names_them_all() -> None:
    assert len(FOLDERS) >= 12
    index = (COOKBOOK / "README.md").read_text()
    assert [f"({folder.name}/README.md)" in index for folder in FOLDERS] == [True] * len(FOLDERS)


def test_it_is_good_and_nothing_in_it_is_dangerous(folder: Path) -> None:
    loaded = examine(folder / "policy.yaml", ENVIRON)
    assert (loaded.faults, warnings_of(loaded)) == ((), ())


async def test_it_does_what_its_tests_say(folder: Path) -> None:
    files, faults = read_cases([folder / "tests"])
    assert not faults
    outcomes = []
    for file in files:
        outcomes += await run(file, load_policy(folder / "policy.yaml", file.document.environment))
    assert len(outcomes) >= 3
    assert all(outcome.passed for outcome in outcomes), "\n".join(lines(outcomes))


def test_its_tests_name_it_and_it_is_explained(folder: Path) -> None:
    for file in read_cases([folder / "tests"])[0]:
        assert file.policy is not None
        assert file.policy.resolve() == folder / "policy.yaml"
    text = (folder / "README.md").read_text()
    assert all(part in text for part in ("**Who needs it.**", "**What the policy does.**", "**What to watch.**"))
