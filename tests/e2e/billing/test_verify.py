"""Whoever changes a final invoice is found: by the chain, by the arithmetic, or by the head that was kept elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import LiteralString

import psycopg
import pytest

from tests.e2e.billing.world import Books, copied

KEPT: tuple[LiteralString, ...] = (
    "UPDATE invoices SET document = '{}' WHERE number = 1",
    "DELETE FROM invoices WHERE number = 3",
    "TRUNCATE invoices",
    "UPDATE price_lists SET document = '{}'",
    "DELETE FROM price_lists",
)
FEWER: LiteralString = """document = replace(document, '"requests":5', '"requests":4')"""
HASHED: LiteralString = "UPDATE invoices SET hash = invoice_hash(invoices) WHERE number = 3"


@pytest.fixture(scope="module")
def invoiced(postgres_server: str, published: Books, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Books]:
    """January to March, of 5 calls each; for tests that copy it."""
    with copied(postgres_server, published.database_url) as url:
        books = Books(url, tmp_path_factory.mktemp("three"))
        books.account("acme", "shop")
        for month in (1, 2, 3):
            books.call(f"2026-0{month}-10", 5)
            books.tollgate("finalize", "acme")
        yield books


@pytest.fixture
def three(postgres_server: str, invoiced: Books, tmp_path: Path) -> Iterator[Books]:
    with copied(postgres_server, invoiced.database_url) as url:
        yield Books(url, tmp_path)


def test_even_the_owner_of_the_tables_changes_nothing(three: Books) -> None:
    for statement in KEPT:
        with pytest.raises(psycopg.errors.RaiseException, match="is only added to"):
            three.sql(statement)


@pytest.mark.parametrize(
    ("statements", "said"),
    [
        (
            ["UPDATE invoices SET document = replace(document, '\"1.00\"', '\"0.00\"') WHERE number = 2"],
            "invoice 2: it was changed; good up to 1:",
        ),
        (["UPDATE invoices SET account = 'bolt' WHERE number = 2"], "invoice 2: it was changed"),
        (["UPDATE invoices SET finalized_by = 'eve' WHERE number = 1"], "invoice 1: it was changed"),
        (["DELETE FROM invoices WHERE number = 2"], "invoice 2: it is missing"),
        (["UPDATE invoices SET previous = '\\x00' WHERE number = 2"], "invoice 2: it does not follow the invoice"),
        # Written again with a hash that fits: the lines are not what usage and prices make.
        (
            ["UPDATE invoices SET document = replace(document, '\"11.00\"', '\"10.00\"') WHERE number = 3", HASHED],
            "invoice 3: its lines are not what its usage and prices make",
        ),
        (
            [f"UPDATE invoices SET {FEWER} WHERE number = 3", HASHED],
            "invoice 3: its lines are not what",
        ),
    ],
)  # fmt: skip
def test_a_superuser_who_does_is_found(three: Books, statements: list[LiteralString], said: str) -> None:
    assert three.tollgate("verify").startswith("3:")
    three.sql("ALTER TABLE invoices DISABLE TRIGGER USER")
    three.sql("INSERT INTO billing_accounts (name, title, anchor) VALUES ('bolt', 'x', '2026-01-01')")
    for statement in statements:
        three.sql(statement)
    found = three.run("verify")
    assert (found.exit_code, found.stderr.startswith(said)) == (1, True), found.stderr


def test_the_head_shows_what_is_missing_at_the_end(three: Books) -> None:
    head = three.tollgate("verify").strip()
    assert three.tollgate("verify", "--head", head).strip() == head
    three.sql("ALTER TABLE invoices DISABLE TRIGGER USER")
    three.sql("DELETE FROM invoices WHERE number = 3")
    assert three.tollgate("verify").startswith("2:")
    found = three.run("verify", "--head", head)
    assert found.stderr.startswith("invoice 3: invoices that were there are missing at the end")
    assert three.run("verify", "--head", f"2:{'0' * 64}").stderr.startswith("invoice 2: it is another invoice")
