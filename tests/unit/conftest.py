"""Unit tests run at every save of a file: fewer random examples here; `tests/properties` and `tests/fuzz` take more."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("unit", max_examples=20, deadline=None)


def pytest_configure() -> None:
    settings.load_profile("unit")
