"""Unit tests run at every save of a file: fewer random examples here; `tests/properties` and `tests/fuzz` take more."""

from __future__ import annotations

import pytest
from hypothesis import settings

settings.register_profile("unit", max_examples=20)

DECIDE = ("advisories", "unit", "check", "edge", "experiments", "identity", "limits")
"""Tests of what must be covered whole. Coverage takes as long as the tests themselves: it rests in all others."""


def pytest_configure() -> None:
    settings.load_profile("unit")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent.name not in DECIDE:
            item.add_marker("no_cover")
