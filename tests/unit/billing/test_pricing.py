"""What usage costs: tiers, included quota, fee, rounding, and what came late."""

from __future__ import annotations

from decimal import Decimal

import pytest

from ext_authz.billing.model import Line, Usage
from ext_authz.billing.pricing import adjustments, lines_of, rounded, total_of
from tests.unit.billing.bills import NOVEMBER, amounts, key, plan


def told(lines: list[Line]) -> list[tuple[str, str, str, str]]:
    return [(line.name, line.tier, f"{line.quantity:f}", f"{line.amount:f}") for line in lines]


def test_a_fee_and_included_quota() -> None:
    by = plan({"name": "Calls", "per": "request", "included": 3, "price": "0.5"}, fee="10")
    assert told(lines_of({key(): amounts(5)}, by, "EUR", NOVEMBER)) == [
        ("Fee", "", "1", "10.00"), ("Calls", "included", "3", "0.00"), ("Calls", "", "2", "1.00"),
    ]  # fmt: skip
    assert told(lines_of({key(): amounts(2)}, by, "EUR", NOVEMBER))[1:] == [("Calls", "included", "2", "0.00")]


@pytest.mark.parametrize(
    ("used", "tiers"),
    [
        (0, []),
        (10, [("1", "10", "1.00")]),
        (11, [("1", "10", "1.00"), ("2", "1", "0.05")]),
        (25, [("1", "10", "1.00"), ("2", "10", "0.50"), ("3", "5", "0.05")]),
    ],
)
def test_each_tier_has_its_own_price(used: int, tiers: list[tuple[str, str, str]]) -> None:
    prices = [{"up_to": 10, "price": "0.1"}, {"up_to": 20, "price": "0.05"}, {"price": "0.01"}]
    by = plan({"name": "Calls", "per": "request", "tiers": prices})
    found = told(lines_of({key(): amounts(used)}, by, "EUR", NOVEMBER))
    assert [line[1:] for line in found] == tiers


def test_the_first_item_that_fits_counts_a_call_and_only_that() -> None:
    by = plan(
        {"name": "Sentiment over gRPC", "per": "request", "models": ["senti*"], "routes": ["grpc-*"], "price": "3"},
        {"name": "Sentiment", "per": "request", "models": ["sentiment"], "price": "2"},
        {"name": "Rest", "per": "request", "price": "1"},
        {"name": "Units", "per": "unit", "price": "1"},
    )
    usage = {key(): amounts(1, units=7), key("cars"): amounts(2), key(route="grpc-infer"): amounts(4)}
    assert told(lines_of(usage, by, "EUR", NOVEMBER)) == [
        ("Sentiment over gRPC", "", "4", "12.00"), ("Sentiment", "", "1", "2.00"), ("Rest", "", "2", "2.00"),
        ("Units", "", "13", "13.00"),
    ]  # fmt: skip


def test_what_is_not_billed_costs_nothing() -> None:
    by = plan(
        {"name": "Calls", "per": "request", "price": "1"},
        {"name": "Traffic", "per": "megabyte", "price": "1"},
        {"name": "Time", "per": "second", "price": "1"},
    )
    assert lines_of({key(billed=False): amounts(0, size=10**9, seconds="60")}, by, "EUR", NOVEMBER) == []


def test_megabytes_and_seconds_are_exact() -> None:
    by = plan(
        {"name": "Traffic", "per": "megabyte", "price": "1000"}, {"name": "Time", "per": "second", "price": "1000"}
    )
    found = told(lines_of({key(): amounts(1, size=1, seconds="0.000001")}, by, "EUR", NOVEMBER))
    assert found == [("Traffic", "", "0.000001", "0.00"), ("Time", "", "0.000001", "0.00")]
    found = told(lines_of({key(): amounts(1, size=2_345_678, seconds="1.5")}, by, "EUR", NOVEMBER))
    assert found == [("Traffic", "", "2.345678", "2345.68"), ("Time", "", "1.5", "1500.00")]


@pytest.mark.parametrize(
    ("currency", "amount", "result"),
    [("EUR", "0.005", "0.00"), ("EUR", "0.015", "0.02"), ("EUR", "0.0250000001", "0.03"), ("JPY", "2.5", "2"),
     ("JPY", "3.5", "4"), ("KWD", "0.0005", "0.000"), ("KWD", "0.0015", "0.002")],
)  # fmt: skip
def test_half_even_to_the_minor_unit(currency: str, amount: str, result: str) -> None:
    assert f"{rounded(Decimal(amount), currency):f}" == result


def test_the_largest_bill_is_still_exact() -> None:
    by = plan({"name": "Calls", "per": "request", "price": "999999999999.999999999999"}, fee="999999999999.99")
    lines = lines_of({key(): amounts(10**15)}, by, "EUR", NOVEMBER)
    assert total_of(lines, "EUR") == Decimal("1000000000000000999999998999.99")


def test_late_usage_pays_as_if_it_had_been_in_time() -> None:
    """The included quota and the first tier are used up already, and the fee is not due again."""
    prices = [{"up_to": 10, "price": "0.1"}, {"price": "0.05"}]
    by = plan({"name": "Calls", "per": "request", "included": 3, "tiers": prices}, fee="5")
    before: Usage = {key(): amounts(12)}
    after: Usage = {key(): amounts(12), key(client="late"): amounts(5)}
    found = adjustments(before, after, by, "EUR", NOVEMBER)
    assert [(line.kind, line.tier, f"{line.quantity:f}", f"{line.amount:f}") for line in found] == [
        ("adjustment", "1", "1", "0.10"), ("adjustment", "2", "4", "0.20"),
    ]  # fmt: skip
    assert adjustments(before, before, by, "EUR", NOVEMBER) == []
