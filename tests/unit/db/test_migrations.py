from __future__ import annotations

import re

import pytest

from ext_authz.db.migrate import Migration, pending, read_migrations
from ext_authz.errors import ConfigError

FIRST, SECOND = Migration("0001_first", "SELECT 1"), Migration("0002_second", "SELECT 2")


def test_only_what_is_missing_is_pending() -> None:
    assert pending([FIRST, SECOND], {}) == [FIRST, SECOND]
    assert pending([FIRST, SECOND], {"0001_first": FIRST.checksum}) == [SECOND]
    assert pending([FIRST, SECOND], {"0001_first": FIRST.checksum, "0002_second": SECOND.checksum}) == []


def test_a_changed_migration_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="migration 0001_first was changed after it had been applied"):
        pending([Migration("0001_first", "SELECT 3"), SECOND], {"0001_first": FIRST.checksum})


def test_a_migration_cannot_be_slipped_in_before_an_applied_one() -> None:
    with pytest.raises(ConfigError, match="migration 0001_first comes before 0002_second"):
        pending([FIRST, SECOND], {"0002_second": SECOND.checksum})


def test_a_database_of_a_newer_version_is_left_alone() -> None:
    assert pending([FIRST], {"0001_first": FIRST.checksum, "0002_second": "newer"}) == []


def test_our_migrations_are_numbered_without_a_gap() -> None:
    numbers = [int(migration.name[:4]) for migration in read_migrations()]
    assert numbers == list(range(1, len(numbers) + 1))
    assert all(re.fullmatch(r"\d{4}_[a-z0-9_]+", migration.name) for migration in read_migrations())
