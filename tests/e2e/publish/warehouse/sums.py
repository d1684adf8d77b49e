"""Reads files of events into ClickHouse one after the other, adds up after each, and prints what is summed in the end.

Arguments: the directory of the SQL, and the files, one event per line.
"""

from __future__ import annotations

import sys
from pathlib import Path

from chdb.session import Session

_READ = "INSERT INTO decisions SETTINGS date_time_input_format = 'best_effort' FORMAT JSONEachRow "


def statements(path: Path) -> list[str]:
    """Of a file."""
    return [each for each in path.read_text().split(";\n") if each.strip()]


def main(directory: Path, *files: Path) -> None:
    """All days that there are."""
    session = Session()
    session.query("CREATE DATABASE ledger")
    session.query("USE ledger")
    for statement in statements(directory / "tables.sql"):
        session.query(statement)
    for file in files:
        session.query(_READ + file.read_text())
        days = session.query("SELECT DISTINCT toDate(decided_at) FROM decisions", "TSV")
        for day in str(days).split():
            for statement in statements(directory / "rollup.sql"):
                session.query(statement, params={"day": day})
    print(session.query("SELECT * EXCEPT decided_on, toUnixTimestamp(day) AS day FROM usage_daily", "JSONEachRow"))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
