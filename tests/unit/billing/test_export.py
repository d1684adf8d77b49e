"""Bills for others: the same invoice is the same bytes, and no cell is a formula."""

from __future__ import annotations

import csv
import json
from decimal import Decimal

from ext_authz.billing.export import FOCUS, LINE, as_csv, as_focus, as_json
from tests.unit.billing.bills import amounts, draft, key, plan

USAGE = {key(): amounts(5, size=1), key(billed=False): amounts(0)}
BY = plan(
    {"name": "=Calls", "per": "request", "included": 3, "price": "0.0000001"},
    {"name": "Traffic", "per": "megabyte", "price": "2"},
    fee="10",
)


def test_json_has_all_that_the_lines_were_computed_from() -> None:
    document = json.loads(as_json(draft(USAGE, BY)))
    assert (document["status"], document["number"], document["bill"]["total"]) == ("draft", 0, "10.00")
    lines = document["bill"]["lines"]
    assert [(line["quantity"], line["unit_price"], line["amount"]) for line in lines] == [
        ("1", "10", "10.00"), ("3", "0", "0.00"), ("2", "0.0000001", "0.00"), ("0.000001", "2", "0.00"),
    ]  # fmt: skip
    assert [row["outcome"] for row in document["bill"]["usage"]] == ["denied", "served"]
    assert document["bill"]["start"] == "2026-11-01T00:00:00Z"


def test_the_order_of_usage_makes_no_difference() -> None:
    backwards = dict(reversed(USAGE.items()))
    for form in (as_json, as_csv, as_focus):
        assert form(draft(USAGE, BY)) == form(draft(backwards, BY))


def test_csv() -> None:
    rows = list(csv.DictReader(as_csv(draft(USAGE, BY)).decode().splitlines()))
    assert tuple(rows[0]) == LINE
    assert [row["name"] for row in rows] == ["Fee", "'=Calls", "'=Calls", "Traffic"]
    assert sum(Decimal(row["amount"]) for row in rows) == Decimal(10)
    assert as_csv(draft({}, plan())).decode().strip() == ",".join(LINE)


def test_focus() -> None:
    rows = list(csv.DictReader(as_focus(draft(USAGE, BY)).decode().splitlines()))
    assert tuple(rows[0]) == FOCUS
    assert [row["ChargeCategory"] for row in rows] == ["Purchase", "Usage", "Usage", "Usage"]
    assert sum(Decimal(row["BilledCost"]) for row in rows) == Decimal(10)
    last = rows[-1]
    assert (last["PricingQuantity"], last["PricingUnit"], last["ConsumedUnit"]) == ("0.000001", "MB", "MB")
    assert (last["BillingPeriodStart"], last["ChargePeriodEnd"]) == ("2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z")
    assert (rows[0]["ConsumedQuantity"], rows[0]["InvoiceId"]) == ("", "")
