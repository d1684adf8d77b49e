"""The outcomes of a bill are the same in the table, in the migration and in what people read."""

from __future__ import annotations

import re
from pathlib import Path

from ext_authz.db.migrate import MIGRATIONS
from ext_authz.ledger.billable import BILLED, OUTCOMES

SQL = (MIGRATIONS / "0017_billable.sql").read_text()
DOCS = Path(__file__).parents[3] / "docs" / "usage.md"


def test_the_migration_names_each_outcome_and_no_other() -> None:
    assert set(re.findall(r"(?:THEN|ELSE) '(\w+)'", SQL)) == OUTCOMES.keys()
    assert re.findall(r"outcome IN \((.*?)\)", SQL) == [", ".join(f"'{name}'" for name in BILLED)]


def test_the_documentation_says_of_each_whether_it_is_billed() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (yes|no) \|", DOCS.read_text(), re.MULTILINE)
    assert rows == [(name, outcome.when, "yes" if outcome.billed else "no") for name, outcome in OUTCOMES.items()]
