from __future__ import annotations

from ext_authz.ledger.commands import usage_table
from ext_authz.ledger.queries import Usage


def test_a_table_is_aligned_and_adds_up() -> None:
    rows = [Usage("", "", "", "no_route", 3), Usage("shop", "sentiment", "infer", "allowed", 1200)]
    assert usage_table(rows) == [
        "CLIENT  MODEL      ROUTE  OUTCOME   COUNT",
        "(none)  -          -      no_route      3",
        "shop    sentiment  infer  allowed    1200",
        "total                                1203",
    ]


def test_nothing_used_is_a_sum_of_nothing() -> None:
    assert usage_table([])[-1].split() == ["total", "0"]
