"""`make mutants` takes minutes and is run by hand: that its holes still fit into the code is seen here."""

from __future__ import annotations

import pytest

from tests.mutants import MUTANTS, ROOT


@pytest.mark.parametrize("name", MUTANTS)
def test_what_a_mutant_replaces_stands_once(name: str) -> None:
    file, old, new = MUTANTS[name]
    assert (ROOT / "ext_authz" / file).read_text().count(old) == 1
    assert old != new
