"""What a bill will come to."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal

import pytest
from msgspec.structs import replace

from ext_authz.billing.forecast import forecast
from tests.unit.billing.bills import NOVEMBER, amounts, bill, key, plan

BY = plan({"name": "Calls", "per": "request", "included": 100, "price": "0.5"}, fee="10")


@pytest.mark.parametrize(
    ("days", "total"),
    [(0.5, None), (1, "560.00"), (10, "20.00"), (15, "10.00"), (29.99, "10.00"), (30, None), (40, None)],
)
def test_it_goes_on_as_it_began(days: float, total: str | None) -> None:
    """40 calls so far, of which the fee includes 100."""
    found = forecast(bill({key(): amounts(40)}, BY), NOVEMBER.start + timedelta(days=days))
    assert found == (None if total is None else Decimal(total))


def test_what_came_late_is_in_it_once() -> None:
    made = bill({key(): amounts(40)}, BY)
    line = replace(made.lines[0], kind="adjustment", amount=Decimal("3.25"))
    half: datetime = NOVEMBER.start + timedelta(days=15)
    assert forecast(replace(made, lines=(*made.lines, line)), half) == Decimal("13.25")
