"""SQL for ClickHouse: the tables of decisions and of their sums by day, and how the sums of a month are made."""

from __future__ import annotations

from pathlib import Path

DIRECTORY = Path(__file__).parent
TABLES, ROLLUP = DIRECTORY / "tables.sql", DIRECTORY / "rollup.sql"
