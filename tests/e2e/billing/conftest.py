from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from ext_authz.db.migrate import migrate
from tests.e2e.billing.world import Books, copied


@pytest.fixture(autouse=True)
def _without_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOLLGATE_POLICY", raising=False)


@pytest.fixture(scope="package")
def published(postgres_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Books]:
    """With the price list `standard`; for tests that copy it."""
    with copied(postgres_server) as url:
        asyncio.run(migrate(url))
        books = Books(url, tmp_path_factory.mktemp("prices"))
        books.publish()
        yield books


@pytest.fixture
def books(postgres_server: str, published: Books, tmp_path: Path) -> Iterator[Books]:
    """With the price list `standard`."""
    with copied(postgres_server, published.database_url) as url:
        yield Books(url, tmp_path)
