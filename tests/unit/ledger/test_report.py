from __future__ import annotations

from ext_authz.ledger.report import Usage, table


def test_a_table_is_aligned_and_adds_up() -> None:
    rows = [Usage("", "", "", "no_route", 3), Usage("shop", "sentiment", "infer", "allowed", 1200)]
    assert table(rows) == [
        "CLIENT    MODEL      ROUTE  OUTCOME   COUNT",
        "(nobody)  -          -      no_route      3",
        "shop      sentiment  infer  allowed    1200",
        "total                                  1203",
    ]


def test_nothing_used_is_a_sum_of_nothing() -> None:
    assert table([])[-1].split() == ["total", "0"]
