"""The Redis and the database of these tests."""

from __future__ import annotations

from tests.e2e.reload.conftest import stores

__all__ = ["stores"]
