"""What a bill will come to if its period goes on as it began."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction

from ext_authz.billing.model import Amounts, Bill, usage_of
from ext_authz.billing.pricing import lines_of, total_of

_SOONEST = timedelta(days=1)
"""After less than that a forecast would say more about one hour than about the month."""


def forecast(bill: Bill, now: datetime) -> Decimal | None:
    """The total at the end, with quota and tiers; adjustments as they are. None: the period is over, or began less than
    a day ago."""
    elapsed = now - bill.start
    if not _SOONEST <= elapsed < bill.end - bill.start:
        return None
    grown = {key: _times(amounts, (bill.end - bill.start) / elapsed) for key, amounts in usage_of(bill.usage).items()}
    by = bill.terms
    late = [line for line in bill.lines if line.kind == "adjustment"]
    return total_of([*lines_of(grown, by.document, by.currency, bill.period), *late], by.currency)


def _times(amounts: Amounts, factor: float) -> Amounts:
    exact = Fraction(factor)
    calls, requests, units, bytes_in, bytes_out = (round(number * exact) for number in amounts[:5])
    seconds = round(Fraction(amounts.seconds) * exact * 1_000_000)
    return Amounts(calls, requests, units, bytes_in, bytes_out, Decimal(seconds) / 1_000_000)
